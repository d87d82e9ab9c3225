"""Snapshots: what a stream has learned, as one self-verifying safetensors file."""
