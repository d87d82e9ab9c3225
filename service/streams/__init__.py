"""Streams: their state, their steps, their answers, and the table of all streams."""
