"""Models: bundles, hosted models, their ONNX graphs and machine code, and the worker thread that runs them."""
