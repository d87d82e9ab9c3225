"""Gradient-free pipelines as ONNX graphs: export, cache, comparison and execution."""
