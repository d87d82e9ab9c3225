"""How ONNX Runtime is run beside PyTorch."""

import onnxruntime


def session_of(model: bytes | str, threads: int) -> onnxruntime.InferenceSession:
    """Open a graph for `threads` threads, which wait awake for the next part of a run, and asleep for the next run.

    Left awake between runs, ONNX Runtime's default, they cost PyTorch beside it half its speed.

    Raises:
        Exception: Of ONNX Runtime's own kinds, if it cannot run the graph.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
