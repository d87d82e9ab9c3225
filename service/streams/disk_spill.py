"""States that are too much for the memory, in files that live as long as somebody holds on to them."""

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
    """A state in a file, which is removed with the last reference to this."""

    file: Path

    def read(self, like: AdapterState) -> AdapterState | None:
        """Return the state, in the form of another of the same pipeline; None if the file is gone or damaged."""
        try:
            state: AdapterState = unflatten(like, safetensors.torch.load(self.file.read_bytes()))
        except (OSError, SafetensorError, StateError) as error:
            log.error("spilled_state_lost", file=str(self.file), reason=str(error))
            return None
        return state


class Spill:
    """A folder for states that one process puts aside; what an earlier one has left there is removed.

    `drop_inputs` says that no state that holds images may be put there.
    """

    def __init__(self, folder: Path, *, drop_inputs: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.iterdir():
            if NAME.fullmatch(left.name):
                left.unlink(missing_ok=True)
        self.folder = folder
        self.drop_inputs = drop_inputs

    def put(self, state: AdapterState) -> Spilled | None:
        """Write a state, without waiting for the disk: it need not survive the process. None if there is no room."""
        spilled = Spilled(self.folder / f"{secrets.token_hex(12)}.spilled")
        weakref.finalize(spilled, spilled.file.unlink, missing_ok=True)
        # safetensors refuses tensors that share memory, and states share the source model's.
        separate = {name: tensor.contiguous().clone() for name, tensor in flatten(state).items()}
        try:
            spilled.file.write_bytes(safetensors.torch.save(separate))
        except OSError as error:
            log.error("state_not_spilled", reason=str(error))
            return None
        return spilled
