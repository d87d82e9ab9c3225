"""The server: hosts a frozen model and gives every stream its own adapted state, over HTTP."""

import os

# ONNX Runtime reports its use to its maker from the first import on; a server of other people's images does not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# PyTorch's threads (GNU OpenMP) else stay awake for milliseconds after each operation, on cores that others wait for.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
