"""Monitors, one file each: a class that names its signals and computes them; it is found by being here."""
