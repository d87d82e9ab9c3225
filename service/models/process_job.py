"""The job of a child process that compiles a step or tries its gradients."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """One pipeline to compile or to try.

    Attributes:
        bundle: The bundle's folder.
        allow_factories: The model factories that the bundle may name.
        spec: The pipeline.
        options: Its options.
        images: The batch size that the step is compiled for.
        threads: PyTorch's number of threads.
        folder: An empty folder for all files that the process writes.
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
        """Read a job that `to_json` has written."""
        values = json.loads(text)
        paths = {name: Path(values[name]) for name in ("bundle", "folder")}
        return cls(**{**values, **paths, "allow_factories": tuple(values["allow_factories"])})
