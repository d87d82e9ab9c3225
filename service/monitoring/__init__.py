"""Monitoring of streams: monitors, drift detectors, guards and histories, as pure functions over values."""
