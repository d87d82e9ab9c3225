"""Checkpoints: what of a stream is kept so that it goes on after a restart or a rest, and how it is built again."""

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
from service.storage.snapshots.stream_files import begun_anew, file_of, left_out, state_for
from service.streams import engine
from service.streams.idempotency import Answered, RequestIdentity
from service.streams.records import Record
from service.streams.stream import Claim, Stream
from service.streams.table import StreamTable
from service.telemetry.logs import log


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
    """Take a stream as it is, to be written; on the worker, where nothing else runs. `new` are answers under way.

    The stream is unsettled from here on, until the write is known to have taken effect.
    """
    taken = Taken(copy.copy(stream), (*stream.retries.entries(), *new), final)
    stream.unsettled = stream.unsettled or "write"
    return taken


@dataclass(frozen=True, slots=True)
class Written:
    """What became of streams that were to be written, by id; one that is in none of these was not tried.

    Attributes:
        claims: The claims from now on of those that are kept.
        lost: Those that another process has claimed.
        failed: Why others could not be kept.
    """

    claims: dict[str, Claim]
    lost: set[str]
    failed: dict[str, Exception]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A stream whose state is in its blob: the move that is left to do, and the claim once it is done."""

    move: Move
    claim: Claim
    new_blob: str


GIVE_UP = 3
"""Failures among streams written together, after which the rest waits for the next time."""
FAILURES = (ServiceError, OSError, ValueError)
"""What a store raises; ValueError where a text cannot be encoded."""


class Checkpoints:
    """Writes streams to the store and reads them back; knows no order and no threads.

    A write may fail between any two of its steps, or take effect while its reply is lost. The next write of the stream
    then claims the row anew, which ends whatever may still be under way, and goes on from what the row holds.

    Args:
        catalogue: Where rows lie.
        blobs: Where states lie.
        half: Whether states are kept in half precision, but those of `sync` streams.
        drop_inputs: Whether images in windows and memories are left out, of `sync` streams too.
    """

    def __init__(self, catalogue: Catalogue, blobs: Blobs, *, half: bool = False, drop_inputs: bool = False) -> None:
        self.catalogue = catalogue
        self.blobs = blobs
        self._half = half
        self._drop_inputs = drop_inputs

    def enrol(self, stream: Stream) -> Claim:
        """Add a stream to the catalogue, as yet without what it has learned.

        Raises:
            ConflictError: If another process has one of this id.
            StoreDownError: If the store does not answer; so do all calls here.
        """
        claim = Claim(epoch=1, generation=0, blob="", reserved=self.catalogue.reservation())
        epoch = self.catalogue.enrol(replace(record_of(stream, claim), generation=0, ceiling=_ceiling(stream, 0)))
        return replace(claim, epoch=epoch)

    def write(self, taken: Sequence[Taken]) -> Written:
        """Keep streams, all in one transaction; one that fails does not hold up the others.

        Raises:
            StoreDownError: If the database does not answer; nothing was tried then.
        """
        self.catalogue.check()  # else every try would leave blobs that nothing refers to
        written = Written({}, set(), {})
        prepared = self._prepared(taken, written)
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
        """Return the last answers of all streams, or of one, that ended within so many seconds."""
        found = self.catalogue.ended(seconds, stream_id)
        return {name: [_answered(each) for each in kept] for name, kept in found.items()}

    def _prepared(self, taken: Sequence[Taken], written: Written) -> list[_Prepared]:
        prepared, failures = [], 0
        for each in taken:
            if failures == GIVE_UP:
                break
            try:
                prepared.append(self._prepare(each))
            except ConflictError:
                written.lost.add(each.stream.id)
            except FAILURES as error:
                failures += not isinstance(error, UnfitError)  # which is no failure of the store
                written.failed[each.stream.id] = error
        return prepared

    def _prepare(self, taken: Taken) -> _Prepared:
        stream = taken.stream
        claim = self._claim(stream)
        in_memory_alone = stream.durability == "ephemeral" and not taken.final
        name = claim.blob if in_memory_alone else self._blob(stream, claim)
        record = replace(record_of(stream, claim), blob=name)
        record = replace(record, ceiling=record.generation) if taken.final else record
        replaced = claim.blob if claim.blob != name else ""
        move = Move(record, claim.generation, replaced, [_kept(each) for each in taken.answered])
        mark = () if in_memory_alone else stream.mark
        after = Claim(claim.epoch, stream.generation, name, claim.reserved, mark)
        return _Prepared(move, after, name if claim.blob != name else "")

    def _claim(self, stream: Stream) -> Claim:
        """Return a stream's claim, made anew where it is not known what its row holds."""
        if stream.claim is None:
            return self.enrol(stream)
        if not stream.unsettled:
            return stream.claim
        record = self.catalogue.reclaim(stream.id)
        if record is not None:
            return Claim(record.epoch, record.generation, record.blob, record.reserved)
        if stream.unsettled == "removal":  # it took effect, though whoever asked for it was told that it failed
            return self.enrol(stream)
        raise ConflictError(f"stream {stream.id!r} was ended by another process")

    def _advance(self, prepared: Sequence[_Prepared], written: Written) -> None:
        behind = self.catalogue.advance([each.move for each in prepared])
        self._remove(each.new_blob for each in prepared if each.move.record.id in behind)
        for each in prepared:
            name = each.move.record.id
            if name not in behind:
                written.claims[name] = each.claim
            elif self.catalogue.has_reclaimed(each.move.record):  # an earlier write of ours took effect late
                written.failed[name] = StoreDownError(f"stream {name!r} could not be kept just now; try again")
            else:
                written.lost.add(name)

    def _one_by_one(self, prepared: Sequence[_Prepared], written: Written, error: Exception) -> None:
        """Write streams each by itself that failed together, so that only the one at fault fails again."""
        names = [each.move.record.id for each in prepared]
        if len(names) == 1:
            written.failed[names[0]] = error
            return
        self.catalogue.check()
        for name, each in zip(names, prepared, strict=True):
            try:
                self._advance([self._anew(each)], written)
            except ConflictError:
                written.lost.add(name)
            except FAILURES as own:
                written.failed[name] = own

    def _anew(self, prepared: _Prepared) -> _Prepared:
        """Return a move whose outcome is unknown as one from what the row holds now."""
        move, blob = prepared.move, prepared.claim.blob
        record = self.catalogue.reclaim(move.record.id)
        if record is None:
            raise ConflictError(f"stream {move.record.id!r} was ended by another process")
        replaced = record.blob if record.blob != blob else ""
        wanted = replace(move.record, epoch=record.epoch, reserved=record.reserved)
        claim = replace(prepared.claim, epoch=record.epoch, reserved=record.reserved)
        return _Prepared(Move(wanted, record.generation, replaced, move.answers), claim, "")

    def _remove(self, names: Iterable[str]) -> None:
        """Remove blobs that nothing refers to; what cannot be removed now is collected later."""
        for name in filter(None, names):
            try:
                self.blobs.delete(name)
            except FAILURES as error:
                log.warning("blob_not_removed", blob=name, reason=str(error))

    def _blob(self, stream: Stream, claim: Claim) -> str:
        """Write a stream's state, unless it is there already or is the one before any batch; return its name."""
        begun = stream.generation or len(stream.state.window)
        if claim.mark == stream.mark or not begun:
            return claim.blob
        name = f"{claim.reserved}-{secrets.token_hex(4)}"
        half = self._half and stream.durability != "sync"  # which must be taken up bit for bit
        label = f"g{stream.generation}"
        _, file = file_of(stream, label, checkpoint=True, drop_inputs=self._drop_inputs, half=half)
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
    """Read a stream and claim it; None if there is none.

    The blob is read first: where that fails, the row is as it was.
    """
    known = checkpoints.catalogue.find(stream_id)
    if known is None:
        return None
    file = _file(checkpoints.blobs, known.blob)
    claimed = checkpoints.catalogue.claim(stream_id)
    if claimed is None:
        return None
    before, record, kept = claimed
    return Loaded(before, record, kept, file if record.blob == known.blob else _file(checkpoints.blobs, record.blob))


def _file(blobs: Blobs, name: str) -> bytes | None:
    try:
        return blobs.get(name) if name else None
    except KeyError:
        return b""  # gone: as damaged as can be


def built(table: StreamTable, models: Mapping[str, HostedModel], loaded: Loaded, *, anew: bool) -> tuple[Stream, str]:
    """Build a stream from what was read; `anew` from its initial state, whatever the store holds.

    Return it, and which of its monitors begin anew, "" for none.

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
    lacks = ""
    if not anew:
        lacks = _restore(stream, loaded.file) if loaded.file is not None else ""
        for kept in loaded.answers:
            answered = _answered(kept)
            stream.retries.add(answered.identity, answered.response)
    stream.generation = loaded.before.newest
    stream.durable_generation = record.generation
    stream.claim = Claim(record.epoch, record.generation, record.blob, record.reserved)
    if stream.generation == record.generation and not anew:
        stream.claim = replace(stream.claim, mark=stream.mark)
    return stream, lacks


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


def _restore(stream: Stream, file: bytes) -> str:
    try:
        manifest, tensors = unpack(file)
        engine.restore(stream, state_for(stream, manifest, tensors))
        return "; ".join(filter(None, (begun_anew(stream, tensors), left_out(stream, manifest))))
    except UnfitError as error:
        raise UnfitError(
            f"stream {stream.id!r} is unfit: what was kept of it is damaged ({error}); reset it to begin anew"
        ) from None


def _kept(answered: Answered) -> Kept:
    return Kept(*answered.identity, answers.packed(answered.response))


def _answered(kept: Kept) -> Answered:
    return Answered(RequestIdentity(*kept.identity), answers.unpacked(kept.content))
