"""The environment of processes that the server starts."""

import os
from collections.abc import Mapping
from pathlib import Path

SECRET = ("ACCLIMATE_", "AWS_")
"""How the names of variables begin that these processes do without."""


def private_environment(folder: Path) -> Mapping[str, str]:
    """Return the environment of a process that writes into a folder alone, and need not know the server's secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SECRET)}
    own = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder)}
    return {**kept, **own, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
