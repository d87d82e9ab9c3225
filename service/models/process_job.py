"""What is asked of the process that compiles a step."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """One step to compile.

    Attributes:
        bundle: The bundle's folder.
        allow_factories: The model factories that it may name.
        spec: The pipeline.
        options: Its options.
        images: In each batch; compiled code is for that many alone.
        threads: Of PyTorch.
        folder: An empty folder of the job's own, for everything that it writes.
    """

    bundle: Path
    allow_factories: tuple[str, ...]
    spec: str
    options: Mapping[str, Any]
    images: int
    threads: int
    folder: Path

    def to_json(self) -> str:
        """Return the job as one line."""
        return json.dumps({**asdict(self), "bundle": str(self.bundle), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read what `to_json` has written."""
        values = json.loads(text)
        paths = {name: Path(values[name]) for name in ("bundle", "folder")}
        return cls(**{**values, **paths, "allow_factories": tuple(values["allow_factories"])})
