"""`acclimate export`: a self-contained adapting model for ONNX Runtime alone."""
