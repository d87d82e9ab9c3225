"""Converts between a stream's value and its snapshot file, and checks which snapshot fits which stream."""

import secrets
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata

import torch
from torch import Tensor

from adapters import AdapterState
from adapters.errors import StateError
from adapters.state import flatten, is_finite, unflatten
from service.errors import UnfitError
from service.storage.snapshots import monitors
from service.storage.snapshots.format import Manifest, Replay, pack
from service.storage.snapshots.half_precision import halved, widened
from service.streams.pending_images import MOST_WAITING
from service.streams.value import Config, StreamState, StreamValue

ADAPTER, MONITORS, WINDOW = "adapter/", "monitors/", "window"


def file_of(
    stream_id: str, value: StreamValue, name: str, note: str = "", *, checkpoint: bool = False,
    drop_inputs: bool = False, half: bool = False,
) -> tuple[Manifest, bytes]:  # fmt: skip
    """Return a snapshot file of a stream's value; `drop_inputs` leaves out the images in window and memory.

    With `half`, learned tensors are stored in half precision if that bounds their error (`half_precision`).

    Raises:
        UnfitError: If the state is not finite.
    """
    config, state = value.config, value.state
    adapter, fitted = config.fitted.adapter, config.fitted
    kept = adapter.without_inputs(fitted.prepared, state.adapter) if drop_inputs else state.adapter
    learned = {f"{ADAPTER}{key}": tensor.contiguous() for key, tensor in flatten(kept).items()}
    tensors = halved(learned) if half else learned
    tensors |= {f"{MONITORS}{key}": tensor.contiguous() for key, tensor in flatten(state.monitors).items()}
    if not is_finite(tensors):
        bad = next(key for key, tensor in tensors.items() if not is_finite({key: tensor}))
        raise UnfitError(f"stream {stream_id!r} cannot be snapshotted: {bad} holds NaN or infinity; reset it")
    waiting = state.window[:0] if drop_inputs else state.window
    manifest = Manifest(
        id=secrets.token_hex(12),
        kind="checkpoint" if checkpoint else "taken",
        stream=stream_id,
        name=name,
        note=note,
        model=config.model.name,
        fingerprint=config.model.bundle.fingerprint,
        adapter=fitted.spec,
        options=dict(fitted.options),
        mode=config.mode,
        guard=config.policy,
        adapt_batch_size=config.adapt_batch_size,
        generation=value.generation,
        steps=value.steps,
        parent=value.parent,
        created=time.time(),
        contains_inputs=len(waiting) > 0 or (adapter.holds_inputs and not drop_inputs),
        exact=not half and len(waiting) == len(state.window) and not (adapter.holds_inputs and drop_inputs),
        halved=half,
        replay=replay_settings(fitted.backend),
    )
    # safetensors refuses tensors that share memory, and fresh states share tensors with the source model.
    separate = {key: tensor.clone() for key, tensor in tensors.items()}
    return manifest, pack(manifest, {**separate, WINDOW: waiting.clone()})


def state_for(stream_id: str, config: Config, manifest: Manifest, tensors: Mapping[str, Tensor]) -> StreamState:
    """Return a snapshot's state, checked against a stream; `restarted_monitors` names its missing monitors.

    Raises:
        UnfitError: If it is of another model, spec, shape or dtype, or is not finite.
    """
    _check_origin(stream_id, config, manifest)
    waiting = tensors.get(WINDOW)
    shape = config.model.bundle.input.shape
    if waiting is None or waiting.dtype != torch.uint8 or tuple(waiting.shape[1:]) != shape:
        raise UnfitError(f"the snapshot's window does not fit the model's images {shape}")
    if len(waiting) > MOST_WAITING:
        raise UnfitError(f"the snapshot's window holds {len(waiting)} images, expected at most {MOST_WAITING}")
    try:
        initial = config.initial()
        others = {key: tensor for key, tensor in tensors.items() if key != WINDOW and not key.startswith(MONITORS)}
        learned = {key.removeprefix(ADAPTER): tensor for key, tensor in others.items()}
        whole = widened(learned, flatten(initial.adapter)) if manifest.halved else learned
        adapter: AdapterState = unflatten(initial.adapter, whole)
        watched, _ = monitors.restored(initial.monitors, _under(MONITORS, tensors))
        return StreamState(adapter, waiting, watched)
    except StateError as error:
        raise UnfitError(f"the snapshot does not fit stream {stream_id!r}: {error}") from None


def restarted_monitors(config: Config, tensors: Mapping[str, Tensor]) -> str:
    """Name the monitors that begin again or are dropped because another version took the snapshot; "" if none."""
    _, names = monitors.restored(config.initial().monitors, _under(MONITORS, tensors))
    return f"taken by another version, whose monitors differ: {', '.join(names)} begin again" if names else ""


def left_out(config: Config, manifest: Manifest) -> str:
    """Say that images of the stream were not kept, so that it does not continue exactly; "" if all were kept."""
    of_memory = config.fitted.adapter.holds_inputs and not manifest.contains_inputs
    if not of_memory and (manifest.exact or manifest.halved):
        return ""
    return "without the images of its window and memory, which were not kept (exact: false)"


def warning_for(config: Config, manifest: Manifest) -> str:
    """Return the reasons why the restored stream may not replay bit for bit; "" if it does."""
    now = replay_settings(config.fitted.backend).model_dump()
    differs = [
        f"{key} {value} (now {now[key]})" for key, value in manifest.replay.model_dump().items() if value != now[key]
    ]
    if dict(config.fitted.options) != manifest.options:
        differs.append("other options")
    if manifest.halved:
        differs.append("half precision")
    elif not manifest.exact:
        differs.append("private inputs left out")
    return f"taken under {', '.join(differs)}: answers may differ from the original's" if differs else ""


def replay_settings(backend: str) -> Replay:
    """Return the settings that a bit-equal replay depends on."""
    return Replay(
        backend=backend,
        threads=torch.get_num_threads(),
        torch=_version("torch"),
        onnxruntime=_version("onnxruntime"),
    )


@cache
def _version(package: str) -> str:
    return metadata.version(package)  # cached, since this reads files


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _check_origin(stream_id: str, config: Config, manifest: Manifest) -> None:
    if manifest.fingerprint != config.model.bundle.fingerprint:
        raise UnfitError(
            f"the snapshot is of model {manifest.model!r} ({manifest.fingerprint[:12]}), stream {stream_id!r} is of "
            f"{config.model.name!r} ({config.model.bundle.fingerprint[:12]})"
        )
    if manifest.adapter != config.fitted.spec:
        raise UnfitError(f"the snapshot is of {manifest.adapter!r}, stream {stream_id!r} runs {config.fitted.spec!r}")
