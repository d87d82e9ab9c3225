"""Selectors, one file each: they pick a pipeline for each stream from measurements of the stream."""
