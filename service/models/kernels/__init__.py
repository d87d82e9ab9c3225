"""Faster code for a pipeline's steps: ONNX graphs, machine code, one pass for several streams."""
