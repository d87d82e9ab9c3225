"""Commands that need no server: calibration, evaluation and export."""
