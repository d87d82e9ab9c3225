"""Monitors: what a stream does and whether it changes, one file each: pure `init` and `update` over tensor state."""
