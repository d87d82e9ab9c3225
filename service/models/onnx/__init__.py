"""ONNX models: executed by ONNX Runtime as shipped, and rebuilt in PyTorch."""
