"""Checkpoints: a stream's stored state, how it is written, and how the stream is rebuilt after a restart or a rest."""

import copy
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from service.streams.idempotency import Answered, RequestIdentity
from service.streams.records import Record
from service.streams.stream import Claim, Stream
from service.streams.table import StreamTable
from service.telemetry.logs import log


@dataclass(frozen=True, slots=True)
class StreamCopy:
    """A copy of a stream between two jobs of the worker. Its parts are immutable values.

    Attributes:
        stream: A shallow copy.
        answered: Its answers to keep for retries.
        final: True if this process is done with the stream, so that its next owner continues at the next generation.
    """

    stream: Stream
    answered: tuple[Answered, ...]
    final: bool = False


def copy_stream(stream: Stream, *new: Answered, final: bool = False) -> StreamCopy:
    """Copy a stream to write it. Runs on the worker, so that nothing changes meanwhile. `new` are answers not sent yet.

    From here on the stream is unsettled, until the write is known to have taken effect.
    """
    copied = StreamCopy(copy.copy(stream), (*stream.retries.kept, *new), final)
    stream.unsettled = stream.unsettled or "write"
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

    def enrol(self, stream: Stream) -> Claim:
        """Add a stream to the catalogue, without its state.

        Raises:
            ConflictError: If another process has a stream of this id.
            StoreDownError: If the store does not answer; every method here may raise this.
        """
        claim = Claim(epoch=1, generation=0, blob="", reserved=self.catalogue.reservation())
        epoch = self.catalogue.enrol(replace(record_of(stream, claim), generation=0, ceiling=_ceiling(stream, 0)))
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
        settled, stream.unsettled = not stream.unsettled, "removal"
        if settled and stream.claim is not None:
            return self.catalogue.remove(stream.id, stream.claim.epoch, stream.claim.reserved, kept)
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
        stream = copied.stream
        claim = self._claim(stream)
        only_in_memory = stream.durability == "ephemeral" and not copied.final
        name = claim.blob if only_in_memory else self._blob(stream, claim)
        record = replace(record_of(stream, claim), blob=name)
        record = replace(record, ceiling=record.generation) if copied.final else record
        replaced = claim.blob if claim.blob != name else ""
        move = Move(record, claim.generation, replaced, [_kept(each) for each in copied.answered])
        mark = () if only_in_memory else stream.mark
        after = Claim(claim.epoch, stream.generation, name, claim.reserved, mark)
        return _Prepared(move, after, name if claim.blob != name else "")

    def _claim(self, stream: Stream) -> Claim:
        """Return a stream's claim, renewed if the content of its row is unknown."""
        if stream.claim is None:
            return self.enrol(stream)
        if not stream.unsettled:
            return stream.claim
        record = self.catalogue.reclaim(stream.id)
        if record is not None:
            return Claim(record.epoch, record.generation, record.blob, record.reserved)
        if stream.unsettled == "removal":  # the removal took effect although its caller got an error
            return self.enrol(stream)
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

    def _blob(self, stream: Stream, claim: Claim) -> str:
        """Write a stream's state and return the blob's name. An unchanged or initial state needs no new blob."""
        started = stream.generation or len(stream.state.window)
        if claim.mark == stream.mark or not started:
            return claim.blob
        name = f"{claim.reserved}-{secrets.token_hex(4)}"
        half = self._half and stream.durability != "sync"  # a sync stream continues bit for bit
        label = f"g{stream.generation}"
        _, file = file_of(stream, label, checkpoint=True, drop_inputs=self._drop_inputs, half=half)
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
    stream = table.new_stream(
        record.id, model, model.fit(record.adapter, settings["options"]), mode=settings["mode"],
        policy=Policy(**settings["guard"]), adapt_batch_size=settings["adapt_batch_size"],
        idempotent=settings.get("idempotent", False),  # rows of an earlier version lack it
        durability=record.durability, created=record.created, last_used=record.last_used,
        requests=figures["requests"], images=figures["images"], parent=figures["parent"],
    )  # fmt: skip
    lacks = ""
    if not reset:
        lacks = _restore(stream, loaded.file) if loaded.file is not None else ""
        for kept in loaded.answers:
            stream.retries = stream.retries.with_answer(_answered(kept))
    stream.generation = loaded.before.newest
    stream.durable_generation = record.generation
    stream.claim = Claim(record.epoch, record.generation, record.blob, record.reserved)
    if stream.generation == record.generation and not reset:
        stream.claim = replace(stream.claim, mark=stream.mark)
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


def record_of(stream: Stream, claim: Claim) -> Record:
    """Return a stream's row with the claim's blob."""
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


def _restore(stream: Stream, file: bytes) -> str:
    try:
        manifest, tensors = unpack(file)
        engine.restore(stream, state_for(stream, manifest, tensors))
        return "; ".join(filter(None, (restarted_monitors(stream, tensors), left_out(stream, manifest))))
    except UnfitError as error:
        raise UnfitError(
            f"stream {stream.id!r} is unfit: its checkpoint is damaged ({error}); reset it to start over"
        ) from None


def _kept(answered: Answered) -> Kept:
    return Kept(*answered.identity, answers.packed(answered.response))


def _answered(kept: Kept) -> Answered:
    return Answered(RequestIdentity(*kept.identity), answers.unpacked(kept.content))
