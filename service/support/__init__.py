"""Helpers for every part of the server: atomic files, clocks, supervised tasks, thread pools, storable texts."""
