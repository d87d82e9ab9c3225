"""A self-contained adapting model for ONNX Runtime alone."""
