"""Telemetry: metrics, logs, statistics, and the name of the caller."""
