"""Pipelines without a gradient as ONNX graphs: exported, kept, checked, run."""
