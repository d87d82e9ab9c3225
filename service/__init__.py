"""The server: hosts a frozen model and gives every stream its own adapted state, over HTTP."""

import os

# ONNX Runtime sends usage data to its maker from the first import on. A server of other people's images must not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Otherwise PyTorch's threads (GNU OpenMP) spin for milliseconds after each operation, on cores that others need.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
