"""The environment of the server's child processes."""

import os
from collections.abc import Mapping
from pathlib import Path

SECRET = ("ACCLIMATE_", "AWS_")
"""Prefixes of the variables that child processes do not get."""


def private_environment(folder: Path) -> Mapping[str, str]:
    """Return the environment of a child process: without the server's secrets, and with its caches in `folder`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}
    own = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder)}
    return {**inherited, **own, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
