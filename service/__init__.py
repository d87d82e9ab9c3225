"""The server: hosts a frozen model and gives every stream its own adapted state, over HTTP."""

import os

# ONNX Runtime reports its use to its maker from the first import on; a server of other people's images does not.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
