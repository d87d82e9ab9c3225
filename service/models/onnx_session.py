"""ONNX Runtime sessions that share the machine with PyTorch."""

import onnxruntime


def session_of(model: bytes | str, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph that runs on `threads` threads, which spin during a run and sleep between runs.

    By default, ONNX Runtime's threads spin between runs too, which halves PyTorch's speed.

    Raises:
        Exception: One of ONNX Runtime's own kinds, if it cannot run the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
