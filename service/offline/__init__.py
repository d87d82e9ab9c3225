"""What needs no server: calibration, evaluation, export."""
