"""What figures hold for: the machine, and the versions of what computed them."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

VERSIONS = ("torch", "onnxruntime", "numpy")


def machine(threads: int) -> dict[str, str]:
    """Return what the figures hold for."""
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
