"""Export of a self-contained adapting model that needs only ONNX Runtime."""
