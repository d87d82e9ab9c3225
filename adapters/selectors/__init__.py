"""Selectors: pick the pipeline for a stream from what the stream looks like, one file each."""
