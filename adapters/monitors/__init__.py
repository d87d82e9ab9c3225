"""Monitors of a stream, one file each: pure functions `init` and `update` over a tensor state."""
