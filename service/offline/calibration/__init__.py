"""Calibration: makes a bundle's source artefacts from source data."""
