"""Conversion between V2 request bytes and tensors: bodies, images, and bounds on JSON."""
