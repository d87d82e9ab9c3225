"""Adapter states moved from memory to files. A file lives as long as something in the process refers to it."""

import re
import secrets
import weakref
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from adapters import AdapterState
from adapters.errors import StateError
from adapters.state import flatten, unflatten
from service.telemetry.logs import log

NAME = re.compile(r"[0-9a-f]{24}\.spilled")


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Spilled:
    """A state in a file. The file is removed with the last reference to this object."""

    file: Path

    def read(self, like: AdapterState) -> AdapterState | None:
        """Return the state in the form of `like`, a state of the same pipeline; None if the file is lost or damaged."""
        try:
            state: AdapterState = unflatten(like, safetensors.torch.load(self.file.read_bytes()))
        except (OSError, SafetensorError, StateError) as error:
            log.error("spilled_state_lost", file=str(self.file), reason=str(error))
            return None
        return state


class Spill:
    """The folder of one process's spilled states. Files left by an earlier process are removed.

    With `drop_inputs`, the caller must not put states that hold images here.
    """

    def __init__(self, folder: Path, *, drop_inputs: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.iterdir():
            if NAME.fullmatch(leftover.name):
                leftover.unlink(missing_ok=True)
        self.folder = folder
        self.drop_inputs = drop_inputs

    def put(self, state: AdapterState) -> Spilled | None:
        """Write a state without waiting for the disk: it need not survive the process. Return None if that fails."""
        spilled = Spilled(self.folder / f"{secrets.token_hex(12)}.spilled")
        weakref.finalize(spilled, spilled.file.unlink, missing_ok=True)
        # safetensors refuses tensors that share memory, and states share tensors with the source model.
        separate = {name: tensor.contiguous().clone() for name, tensor in flatten(state).items()}
        try:
            spilled.file.write_bytes(safetensors.torch.save(separate))
        except OSError as error:
            log.error("state_not_spilled", reason=str(error))
            return None
        return spilled
