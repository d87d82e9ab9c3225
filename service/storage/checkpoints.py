"""Checkpoints: a stream's stored state, how it is written, and how the stream is rebuilt after a restart or a rest."""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, cast

from service.errors import ConflictError, ServiceError, StoreDownError, StoreFullError, UnfitError
from service.models.hosted import HostedModel
from service.monitoring.guard import Policy
from service.storage.backends import answers
from service.storage.backends.answers import Kept
from service.storage.backends.blobs import Blobs
from service.storage.backends.catalogue import HEADROOM, Catalogue, Move
from service.storage.snapshots.format import unpack
from service.storage.snapshots.stream_files import file_of, left_out, restarted_monitors, state_for
from service.streams import engine
from service.streams.idempotency import Answered, RequestIdentity, RetryLog
from service.streams.records import Record
from service.streams.stream import Claim, Stored, Stream
from service.streams.table import StreamTable
from service.streams.value import Config, StreamValue
from service.telemetry.logs import log
from service.types import Durability


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """A stream's value to be written.

    Attributes:
        stream: The stream.
        value: The value: the current one, or one that a job commits after this write.
        stored: A copy of the store's side of the stream, before this write.
        final: True if this process is done with the stream, so that its next owner continues at the next generation.
    """

    stream: Stream
    value: StreamValue
    stored: Stored
    final: bool = False


def copy_stream(stream: Stream, value: StreamValue, *, final: bool = False) -> StreamCopy:
    """Prepare a value of a stream to be written. Runs on the worker, so that nothing changes meanwhile.

    From here on the stream is unsettled, until the write is known to have taken effect.
    """
    copied = StreamCopy(stream, value, copy(stream.stored), final)
    stream.stored.unsettled = stream.stored.unsettled or "write"
    return copied


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write by stream id. A stream in none of the three was not tried.

    Attributes:
        claims: The new claims of the streams that were written.
        lost: Streams that another process has claimed.
        failed: The errors of the others.
    """

    claims: dict[str, Claim]
    lost: set[str]
    failed: dict[str, Exception]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A stream with its state's blob written: the pending move of its row, and the claim after that move."""

    move: Move
    claim: Claim
    new_blob: str


GIVE_UP = 3
"""Failures in one batch of streams after which the rest waits for the next scan."""
FAILURES = (ServiceError, OSError, ValueError)
"""Errors that a store raises; ValueError if a text cannot be encoded."""


class Checkpoints:
    """Writes streams to the store and reads them back. It knows nothing of turns and threads.

    A write may fail between any two of its steps, or take effect although its reply is lost. The stream's next write
    then claims the row again, which ends any pending write, and continues from the row.

    Args:
        catalogue: Holds the rows.
        blobs: Holds the states.
        half: Store states in half precision, except those of `sync` streams.
        drop_inputs: Leave out the images in windows and memories, also those of `sync` streams.
    """

    def __init__(self, catalogue: Catalogue, blobs: Blobs, *, half: bool = False, drop_inputs: bool = False) -> None:
        self.catalogue = catalogue
        self.blobs = blobs
        self._half = half
        self._drop_inputs = drop_inputs

    def enrol(self, stream: Stream, value: StreamValue) -> Claim:
        """Add a stream to the catalogue with a value's settings, without its state.

        Raises:
            ConflictError: If another process has a stream of this id.
            StoreDownError: If the store does not answer; every method here may raise this.
        """
        claim = Claim(epoch=1, generation=0, blob="", reserved=self.catalogue.reservation())
        epoch = self.catalogue.enrol(replace(record_of(stream, value, claim), generation=0, ceiling=_ceiling(value, 0)))
        return replace(claim, epoch=epoch)

    def write(self, copies: Sequence[StreamCopy]) -> Written:
        """Write streams in one transaction. One stream that fails does not hold up the others.

        Raises:
            StoreDownError: If the database does not answer. Nothing was written then.
        """
        self.catalogue.check()  # otherwise each try would write blobs and fail at the row
        written = Written({}, set(), {})
        prepared = self._prepared(copies, written)
        try:
            self._advance(prepared, written)
        except StoreFullError as error:  # nothing was committed
            self._remove(each.new_blob for each in prepared)
            written.failed.update(dict.fromkeys((each.move.record.id for each in prepared), error))
        except FAILURES as error:
            self._one_by_one(prepared, written, error)
        return written

    def remove(self, stream: Stream, last: Sequence[Answered] = ()) -> bool:
        """Remove a stream's row and keep its last answers; False if another process has claimed or removed it."""
        kept = [_kept(each) for each in last]
        stored = stream.stored
        settled, stored.unsettled = not stored.unsettled, "removal"
        if settled and stored.claim is not None:
            return self.catalogue.remove(stream.id, stored.claim.epoch, stored.claim.reserved, kept)
        try:
            record = self.catalogue.reclaim(stream.id)
        except ConflictError:
            return False
        if record is not None:
            return self.catalogue.remove(stream.id, record.epoch, record.reserved, kept)
        self.catalogue.keep_ended(stream.id, kept)
        return True

    def ended(self, seconds: float, stream_id: str | None = None) -> dict[str, list[Answered]]:
        """Return the last answers of all streams, or of one, that ended in the last `seconds`."""
        found = self.catalogue.ended(seconds, stream_id)
        return {name: [_answered(each) for each in kept] for name, kept in found.items()}

    def _prepared(self, copies: Sequence[StreamCopy], written: Written) -> list[_Prepared]:
        prepared, failures = [], 0
        for each in copies:
            if failures == GIVE_UP:
                break
            try:
                prepared.append(self._prepare(each))
            except ConflictError:
                written.lost.add(each.stream.id)
            except FAILURES as error:
                failures += not isinstance(error, UnfitError)  # a stream's own fault, not the store's
                written.failed[each.stream.id] = error
        return prepared

    def _prepare(self, copied: StreamCopy) -> _Prepared:
        value, claim = copied.value, self._claim(copied)
        only_in_memory = value.config.durability == "ephemeral" and not copied.final
        name = claim.blob if only_in_memory else self._blob(copied, claim)
        record = replace(record_of(copied.stream, value, claim), blob=name)
        record = replace(record, ceiling=record.generation) if copied.final else record
        replaced = claim.blob if claim.blob != name else ""
        move = Move(record, claim.generation, replaced, [_kept(each) for each in value.retries.kept])
        mark = () if only_in_memory else value.mark
        after = Claim(claim.epoch, value.generation, name, claim.reserved, mark)
        return _Prepared(move, after, name if claim.blob != name else "")

    def _claim(self, copied: StreamCopy) -> Claim:
        """Return a stream's claim, renewed if the content of its row is unknown."""
        stream, stored = copied.stream, copied.stored
        if stored.claim is None:
            return self.enrol(stream, copied.value)
        if not stored.unsettled:
            return stored.claim
        record = self.catalogue.reclaim(stream.id)
        if record is not None:
            return Claim(record.epoch, record.generation, record.blob, record.reserved)
        if stored.unsettled == "removal":  # the removal took effect although its caller got an error
            return self.enrol(stream, copied.value)
        raise ConflictError(f"stream {stream.id!r} was ended by another process")

    def _advance(self, prepared: Sequence[_Prepared], written: Written) -> None:
        behind = self.catalogue.advance([each.move for each in prepared])
        self._remove(each.new_blob for each in prepared if each.move.record.id in behind)
        for each in prepared:
            name = each.move.record.id
            if name not in behind:
                written.claims[name] = each.claim
            elif self.catalogue.has_reclaimed(each.move.record):  # an earlier write of this process took effect late
                written.failed[name] = StoreDownError(f"stream {name!r} could not be kept just now; try again")
            else:
                written.lost.add(name)

    def _one_by_one(self, prepared: Sequence[_Prepared], written: Written, error: Exception) -> None:
        """Write streams one by one that failed together, so that only the stream at fault fails again."""
        names = [each.move.record.id for each in prepared]
        if len(names) == 1:
            written.failed[names[0]] = error
            return
        self.catalogue.check()
        for name, each in zip(names, prepared, strict=True):
            try:
                self._advance([self._reclaimed(each)], written)
            except ConflictError:
                written.lost.add(name)
            except FAILURES as own:
                written.failed[name] = own

    def _reclaimed(self, prepared: _Prepared) -> _Prepared:
        """Reclaim a row whose move has an unknown outcome, and return the same move from the row's present content."""
        move, blob = prepared.move, prepared.claim.blob
        record = self.catalogue.reclaim(move.record.id)
        if record is None:
            raise ConflictError(f"stream {move.record.id!r} was ended by another process")
        replaced = record.blob if record.blob != blob else ""
        moved = replace(move.record, epoch=record.epoch, reserved=record.reserved)
        claim = replace(prepared.claim, epoch=record.epoch, reserved=record.reserved)
        return _Prepared(Move(moved, record.generation, replaced, move.answers), claim, "")

    def _remove(self, names: Iterable[str]) -> None:
        """Remove unreferenced blobs. If one cannot be removed now, the garbage collection does it later."""
        for name in filter(None, names):
            try:
                self.blobs.delete(name)
            except FAILURES as error:
                log.warning("blob_not_removed", blob=name, reason=str(error))

    def _blob(self, copied: StreamCopy, claim: Claim) -> str:
        """Write a stream's state and return the blob's name. An unchanged or initial state needs no new blob."""
        value = copied.value
        started = value.generation or len(value.state.window)
        if claim.mark == value.mark or not started:
            return claim.blob
        name = f"{claim.reserved}-{secrets.token_hex(4)}"
        half = self._half and value.config.durability != "sync"  # a sync stream continues bit for bit
        label = f"g{value.generation}"
        _, file = file_of(copied.stream.id, value, label, checkpoint=True, drop_inputs=self._drop_inputs, half=half)
        self.blobs.put(name, file, unpack)
        return name


@dataclass(frozen=True, slots=True)
class Loaded:
    """A stream read from the store: its record before and after the claim, its answers, and its blob if it has one."""

    before: Record
    record: Record
    answers: list[Kept]
    file: bytes | None


def load(checkpoints: Checkpoints, stream_id: str) -> Loaded | None:
    """Read a stream and claim it; return None if there is none.

    The blob is read before the claim. If that fails, the row is unchanged.
    """
    found = checkpoints.catalogue.find(stream_id)
    if found is None:
        return None
    file = _file(checkpoints.blobs, found.blob)
    claimed = checkpoints.catalogue.claim(stream_id)
    if claimed is None:
        return None
    before, record, kept = claimed
    return Loaded(before, record, kept, file if record.blob == found.blob else _file(checkpoints.blobs, record.blob))


def _file(blobs: Blobs, name: str) -> bytes | None:
    try:
        return blobs.get(name) if name else None
    except KeyError:
        return b""  # a missing blob is treated as a damaged one


def build(table: StreamTable, models: Mapping[str, HostedModel], loaded: Loaded, *, reset: bool) -> tuple[Stream, str]:
    """Build a stream from its stored data; with `reset` in its initial state, whatever the store holds.

    Returns:
        The stream, and a note on the monitors that begin again and the images that are missing, or "".

    Raises:
        UnfitError: If its model is not served or has changed, or its state is damaged.
    """
    record = loaded.record
    settings: dict[str, Any] = json.loads(record.settings)
    model = model_of(models, record, reset=reset)
    figures = json.loads(record.figures)
    config = Config(
        model, model.fit(record.adapter, settings["options"]), mode=settings["mode"],
        policy=Policy(**settings["guard"]), adapt_batch_size=settings["adapt_batch_size"],
        durability=cast("Durability", record.durability),
        idempotent=settings.get("idempotent", False),  # rows of an earlier version lack it
    )  # fmt: skip
    stream = table.new_stream(record.id, config)
    stream.created, stream.last_used = record.created, record.last_used
    value, lacks = stream.current, ""
    if not reset:
        value, lacks = _restored(record.id, value, loaded.file) if loaded.file is not None else (value, "")
        value = replace(value, retries=reduce(RetryLog.with_answer, map(_answered, loaded.answers), value.retries))
    counters = replace(
        value.counters, generation=loaded.before.newest, requests=figures["requests"], images=figures["images"]
    )
    stream.current = value = replace(value, counters=counters, parent=figures["parent"])
    mark = value.mark if value.generation == record.generation and not reset else ()
    claim = Claim(record.epoch, record.generation, record.blob, record.reserved, mark)
    stream.stored = Stored(claim, durable_generation=record.generation)
    return stream, lacks


def model_of(models: Mapping[str, HostedModel], record: Record, *, reset: bool) -> HostedModel:
    """Return a stream's served model. With `reset`, another bundle of the same name will do.

    Raises:
        UnfitError: If there is none.
    """
    model = models.get(record.model)
    if model is None:
        raise UnfitError(f"stream {record.id!r} is unfit: its model {record.model!r} is not served here")
    if model.bundle.fingerprint != record.fingerprint and not reset:
        raise UnfitError(
            f"stream {record.id!r} is unfit: it belongs to {record.model!r} of fingerprint {record.fingerprint[:12]}, "
            f"and served is {model.bundle.fingerprint[:12]}; reset it to start over, or serve its bundle"
        )
    return model


def record_of(stream: Stream, value: StreamValue, claim: Claim) -> Record:
    """Return a stream's row for a value, with the claim's blob."""
    config, counters = value.config, value.counters
    settings = {
        "options": dict(config.fitted.options), "mode": config.mode, "guard": config.policy.model_dump(),
        "adapt_batch_size": config.adapt_batch_size, "idempotent": config.idempotent,
    }  # fmt: skip
    figures = {
        "steps": value.steps, "requests": counters.requests, "images": counters.images, "parent": value.parent,
        "state_bytes": value.state.size_bytes,
    }  # fmt: skip
    return Record(
        id=stream.id,
        model=config.model.name,
        fingerprint=config.model.bundle.fingerprint,
        adapter=config.fitted.spec,
        durability=config.durability,
        settings=json.dumps(settings),
        figures=json.dumps(figures),
        generation=value.generation,
        ceiling=_ceiling(value, value.generation),
        epoch=claim.epoch,
        blob=claim.blob,
        reserved=claim.reserved,
        created=stream.created,
        last_used=stream.last_used,
    )


def _ceiling(value: StreamValue, generation: int) -> int:
    return generation if value.config.durability == "sync" else generation + HEADROOM


def _restored(stream_id: str, value: StreamValue, file: bytes) -> tuple[StreamValue, str]:
    """Return a stream's value with the state in its file, and a note on monitors and images that the file lacks."""
    try:
        manifest, tensors = unpack(file)
        state = state_for(stream_id, value.config, manifest, tensors)
    except UnfitError as error:
        raise UnfitError(
            f"stream {stream_id!r} is unfit: its checkpoint is damaged ({error}); reset it to start over"
        ) from None
    lacks = (restarted_monitors(value.config, tensors), left_out(value.config, manifest))
    return engine.restore(value, state), "; ".join(filter(None, lacks))


def _kept(answered: Answered) -> Kept:
    return Kept(*answered.identity, answers.packed(answered.response))


def _answered(kept: Kept) -> Answered:
    return Answered(RequestIdentity(*kept.identity), answers.unpacked(kept.content))
