"""Snapshots: a stream's learned state as one self-verifying safetensors file."""
