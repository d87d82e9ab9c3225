"""The context of a benchmark's figures: the machine, and the versions of the packages."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

VERSIONS = ("torch", "onnxruntime", "numpy")


def machine(threads: int) -> dict[str, str]:
    """Return the processor, the number of cores and threads, and the versions, by name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }
