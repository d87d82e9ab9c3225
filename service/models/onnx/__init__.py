"""ONNX models: run as shipped, and rebuilt in PyTorch."""
