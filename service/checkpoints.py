"""Checkpoints: what of a stream is kept so that it goes on after a restart or a rest, and how it is built again."""

import copy
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service import engine
from service.errors import ConflictError, StoreFullError, UnfitError
from service.guard import Policy
from service.hosting import HostedModel
from service.retries import Answered, Asked
from service.snapshots.format import unpack
from service.snapshots.streams import file_of, state_for
from service.store import answers
from service.store.blobs import Blobs
from service.store.catalogue import HEADROOM, Catalogue, Kept, Move, Record, reservation
from service.streams import Claim, Stream, StreamTable
from service.telemetry import log


@dataclass(frozen=True, slots=True)
class Taken:
    """A stream as it was at a moment between two jobs of the worker: what it holds are values.

    Attributes:
        stream: A shallow copy.
        answered: Its answers to be kept for retries.
        final: Whether the process is done with it: it goes on at the next generation, wherever that is.
    """

    stream: Stream
    answered: tuple[Answered, ...]
    final: bool = False


def take(stream: Stream, *new: Answered, final: bool = False) -> Taken:
    """Take a stream as it is; on the worker, where nothing else runs. `new` are answers under way."""
    return Taken(copy.copy(stream), (*stream.retries.entries(), *new), final)


class Checkpoints:
    """Writes streams to the store and reads them back; knows no order and no threads.

    Args:
        catalogue: Where rows lie.
        blobs: Where states lie.
        half: Whether states are kept in half precision, but those of `sync` streams.
    """

    def __init__(self, catalogue: Catalogue, blobs: Blobs, *, half: bool = False) -> None:
        self.catalogue = catalogue
        self.blobs = blobs
        self._half = half

    def enrol(self, stream: Stream) -> Claim:
        """Add a stream to the catalogue, as yet without what it has learned.

        Raises:
            ConflictError: If another process has one of this id.
            StoreDownError: If the store does not answer; so do all calls here.
        """
        claim = Claim(epoch=1, generation=0, blob="", reserved=reservation())
        self.catalogue.enrol(replace(record_of(stream, claim), generation=0, ceiling=_ceiling(stream, 0)))
        return claim

    def write(self, taken: Sequence[Taken]) -> dict[str, Claim | None]:
        """Keep streams, all in one transaction; return each one's claim from now on, None for one that is lost.

        A stream whose state holds NaN or infinity is left out, and the log says so.

        Raises:
            StoreFullError: If there is no room.
        """
        self.catalogue.check()  # else every try would leave blobs that nothing refers to
        moves, claims, new = [], dict[str, Claim | None](), dict[str, str]()
        for each in taken:
            try:
                move, claim = self._move(each)
            except ConflictError:
                claims[each.stream.id] = None
                continue
            except UnfitError as error:
                log.error("stream_not_kept", stream=each.stream.id, reason=str(error))
                continue
            moves.append(move)
            claims[each.stream.id] = claim
            if each.stream.claim is None or claim.blob != each.stream.claim.blob:
                new[each.stream.id] = claim.blob
        try:
            fenced = self.catalogue.advance(moves)
        except StoreFullError:  # nothing was committed
            self._remove(new.values())
            raise
        self._remove(new[lost] for lost in fenced & new.keys())
        return claims | dict.fromkeys(fenced)

    def _move(self, taken: Taken) -> tuple[Move, Claim]:
        stream = taken.stream
        claim = stream.claim or self.enrol(stream)
        in_memory_alone = stream.durability == "ephemeral" and not taken.final
        name = claim.blob if in_memory_alone else self._blob(stream, claim)
        record = replace(record_of(stream, claim), blob=name)
        record = replace(record, ceiling=record.generation) if taken.final else record
        move = Move(
            record, claim.generation, claim.blob if claim.blob != name else "", [_kept(each) for each in taken.answered]
        )
        mark = () if in_memory_alone else stream.mark
        return move, Claim(claim.epoch, stream.generation, name, claim.reserved, mark)

    def _remove(self, names: Iterable[str]) -> None:
        for name in filter(None, names):
            self.blobs.delete(name)

    def _blob(self, stream: Stream, claim: Claim) -> str:
        """Write a stream's state, unless it is there already or is the one before any batch; return its name."""
        begun = stream.generation or len(stream.state.window)
        if claim.mark == stream.mark or not begun:
            return claim.blob
        name = f"{claim.reserved}-{secrets.token_hex(4)}"
        half = self._half and stream.durability != "sync"  # which must be taken up bit for bit
        _, file = file_of(stream, name=f"g{stream.generation}", checkpoint=True, half=half)
        self.blobs.put(name, file, unpack)
        return name


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stream as the store has it: its record before it was claimed and now, its answers, and its blob, if any."""

    before: Record
    record: Record
    answers: list[Kept]
    file: bytes | None


def load(checkpoints: Checkpoints, stream_id: str) -> Loaded | None:
    """Claim a stream and read it; None if there is none."""
    claimed = checkpoints.catalogue.claim(stream_id)
    if claimed is None:
        return None
    before, record, kept = claimed
    try:
        file = checkpoints.blobs.get(record.blob) if record.blob else None
    except KeyError:
        file = b""  # gone: as damaged as can be
    return Loaded(before, record, kept, file)


def built(table: StreamTable, models: Mapping[str, HostedModel], loaded: Loaded, *, anew: bool) -> Stream:
    """Build a stream from what was read; `anew` from its initial state, whatever the store holds.

    Raises:
        UnfitError: If its model is not served, or is another now, or its state is damaged.
    """
    record = loaded.record
    settings: dict[str, Any] = json.loads(record.settings)
    model = model_of(models, record, anew=anew)
    figures = json.loads(record.figures)
    stream = table.made(
        record.id, model, model.fit(record.adapter, settings["options"]), mode=settings["mode"],
        policy=Policy(**settings["guard"]), adapt_batch_size=settings["adapt_batch_size"],
        idempotent=settings.get("idempotent", False),  # rows of an earlier version lack it
        durability=record.durability, created=record.created, last_used=record.last_used,
        requests=figures["requests"], images=figures["images"], parent=figures["parent"],
    )  # fmt: skip
    if not anew:
        if loaded.file is not None:
            _restore(stream, loaded.file)
        for kept in loaded.answers:
            stream.retries.add(Asked(*kept.asked), answers.unpacked(kept.content))
    stream.generation = max(loaded.before.ceiling, loaded.before.generation)
    stream.durable_generation = record.generation
    stream.claim = Claim(record.epoch, record.generation, record.blob, record.reserved)
    if stream.generation == record.generation and not anew:
        stream.claim = replace(stream.claim, mark=stream.mark)
    return stream


def model_of(models: Mapping[str, HostedModel], record: Record, *, anew: bool) -> HostedModel:
    """Return the served model that a stream is of; where it begins anew, another bundle of the name does as well.

    Raises:
        UnfitError: If there is none.
    """
    model = models.get(record.model)
    if model is None:
        raise UnfitError(f"stream {record.id!r} is unfit: its model {record.model!r} is not served here")
    if model.bundle.fingerprint != record.fingerprint and not anew:
        raise UnfitError(
            f"stream {record.id!r} is unfit: it is of {record.model!r} as {record.fingerprint[:12]}, and served is "
            f"{model.bundle.fingerprint[:12]}; reset it to begin anew, or serve the bundle it is of"
        )
    return model


def record_of(stream: Stream, claim: Claim) -> Record:
    """Return a stream's row; its blob is the claim's."""
    settings = {
        "options": dict(stream.fitted.options), "mode": stream.mode, "guard": stream.policy.model_dump(),
        "adapt_batch_size": stream.adapt_batch_size, "idempotent": stream.idempotent,
    }  # fmt: skip
    figures = {
        "steps": stream.steps, "requests": stream.requests, "images": stream.images, "parent": stream.parent,
        "state_bytes": stream.state_bytes,
    }  # fmt: skip
    return Record(
        id=stream.id,
        model=stream.model.name,
        fingerprint=stream.model.bundle.fingerprint,
        adapter=stream.fitted.spec,
        durability=stream.durability,
        settings=json.dumps(settings),
        figures=json.dumps(figures),
        generation=stream.generation,
        ceiling=_ceiling(stream, stream.generation),
        epoch=claim.epoch,
        blob=claim.blob,
        reserved=claim.reserved,
        created=stream.created,
        last_used=stream.last_used,
    )


def _ceiling(stream: Stream, generation: int) -> int:
    return generation if stream.durability == "sync" else generation + HEADROOM


def _restore(stream: Stream, file: bytes) -> None:
    try:
        engine.restore(stream, state_for(stream, *unpack(file)))
    except UnfitError as error:
        raise UnfitError(
            f"stream {stream.id!r} is unfit: what was kept of it is damaged ({error}); reset it to begin anew"
        ) from None


def _kept(answered: Answered) -> Kept:
    return Kept(*answered.asked, answers.packed(answered.response))
