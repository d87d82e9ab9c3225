"""Operators' actions on streams and snapshots. Each runs in its stream's turn."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from service.errors import ConflictError, ServiceError, UnfitError, UnknownError
from service.models.hosted import Fitted, HostedModel
from service.monitoring.guard import Policy
from service.monitoring.late_labels import Feedback, class_numbers
from service.serving.scheduler import Scheduler
from service.serving.stream_cache import Residence
from service.storage.checkpointer import Keeper
from service.storage.recorder import Recorder
from service.storage.snapshots.format import Manifest, pack, unpack
from service.storage.snapshots.store import SnapshotStore
from service.storage.snapshots.stream_files import file_of, restarted_monitors, state_for, warning_for
from service.storage.store_calls import StoreCalls
from service.streams import engine
from service.streams.idempotency import Answered
from service.streams.stream import Stream
from service.streams.table import StreamTable, check_generation
from service.streams.value import Config, StreamValue
from service.support.steps import Steps, at_once
from service.telemetry.metrics import Telemetry
from service.types import Durability, Happening, Mode

T = TypeVar("T")
Job: TypeAlias = Callable[[StreamValue], Steps[tuple[StreamValue, T]]]
"""A job on a stream's value. It returns the value to commit, and its result."""


class Controlplane:
    """Creates, changes, resets, snapshots and restores streams; knows no HTTP."""

    def __init__(
        self,
        models: Mapping[str, HostedModel],
        table: StreamTable,
        scheduler: Scheduler,
        calls: StoreCalls,
        store: SnapshotStore,
        telemetry: Telemetry,
        recorder: Recorder,
        keeper: Keeper,
        residence: Residence,
    ) -> None:
        self.models = models
        self.table = table
        self._scheduler = scheduler
        self.calls = calls
        self._store = store
        self._telemetry = telemetry
        self._recorder = recorder
        self._keeper = keeper
        self.residence = residence

    def check_exists(self, stream_id: str) -> None:
        """Check that a stream of this id may exist. With a shared store, only the catalogue knows for sure.

        Raises:
            UnknownError: If there is none.
        """
        if not self.residence.may_know(stream_id):
            raise UnknownError(f"there is no stream {stream_id[:200]!r}")

    async def create(
        self, stream_id: str | None, model: str | None, adapter: str | None, options: Mapping[str, Any], **settings: Any
    ) -> Stream:
        """Create a stream.

        Raises:
            UnknownError: If there is no such model.
            ConflictError: If the id is in use.
            UnfitError: If several models are served and none is named, or if spec or options do not fit the model.
        """
        chosen = stream_id or f"s-{secrets.token_hex(6)}"
        hosted = self._model(model)
        self._scheduler.admission.check_open()
        fitted = await self._fitted(hosted, hosted.bundle.toml.adapter if adapter is None else adapter, options)
        if self.table.knows(chosen):
            raise ConflictError(f"there is a stream {chosen!r} already; choose another id, or reset it")
        stream = self.table.create(chosen, Config(hosted, fitted, **settings))
        stream.waiting += 1  # keeps the stream from being put to rest or ended before the store has its row
        try:
            enrol = partial(self._keeper.checkpoints.enrol, stream, stream.current)
            stream.stored.claim = await self.calls.run(enrol)
        except ServiceError:
            self.table.delete(chosen)
            raise
        finally:
            stream.waiting -= 1
        stream.touch()
        self.residence.note(stream)
        self._recorder.log(stream, Happening("created", f"with {fitted.spec}"))
        return stream

    async def change(
        self,
        stream_id: str,
        expected: int | None,
        *,
        mode: Mode | None,
        adapter: str | None,
        options: Mapping[str, Any] | None,
        guard: Policy | None,
        adapt_batch_size: int | None,
        durability: Durability | None,
        idempotent: bool | None,
    ) -> Stream:
        """Change a stream's settings. A new spec, or options that change shapes, start it from its initial state."""
        stream = await self.residence.get(stream_id)
        refit = adapter is not None or options is not None
        if refit:
            spec = stream.current.config.fitted.spec if adapter is None else adapter
            await stream.model.try_ahead(spec, options or {}, self._scheduler.admission.place(None))

        def changed(value: StreamValue) -> StreamValue:
            check_generation(stream.id, value.generation, expected)
            if refit:
                spec = value.config.fitted.spec if adapter is None else adapter
                value = engine.refit(value, stream.model.fit(spec, options or {}))
            config = replace(
                value.config,
                mode=mode or value.config.mode,
                policy=guard or value.config.policy,
                adapt_batch_size=adapt_batch_size or value.config.adapt_batch_size,
                durability=durability or value.config.durability,
                idempotent=value.config.idempotent if idempotent is None else idempotent,
            )
            return replace(value, config=config)

        await self._change(stream, changed)
        values = {
            "mode": mode, "adapter": adapter, "options": options, "guard": guard, "batch": adapt_batch_size,
            "durability": durability, "idempotent": idempotent,
        }  # fmt: skip
        named = ", ".join(name for name, value in values.items() if value is not None) or "nothing"
        config = stream.current.config
        self._recorder.log(stream, Happening("changed", f"{named}; now {config.fitted.spec}, {config.mode}"))
        return stream

    async def check_change(
        self,
        stream_id: str,
        expected: int | None,
        adapter: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Stream:
        """Run the checks of `change` and `reset` and return the stream. Nothing changes.

        Raises:
            MovedOnError: If the stream is at another generation than expected.
            UnfitError: If spec or options do not fit its model.
        """
        stream = await self.residence.get(stream_id)
        value = stream.current
        check_generation(stream.id, value.generation, expected)
        if adapter is not None or options is not None:
            await self._fitted(stream.model, value.config.fitted.spec if adapter is None else adapter, options or {})
        return stream

    async def delete(self, stream_id: str, expected: int | None) -> None:
        """End a stream; its snapshots stay. A resting stream is not loaded for this, since it may be damaged."""
        self._scheduler.admission.check_open()
        record = await self.residence.end_resting(stream_id, expected)
        if record is not None:
            self._recorder.log_by_id(stream_id, record.model, _deleted(record.generation))
            return
        stream = await self.residence.get(stream_id)

        def job(value: StreamValue) -> Steps[tuple[StreamValue, None]]:
            check_generation(stream.id, value.generation, expected)
            yield from self._keeper.forget(stream)
            self.table.delete(stream.id)
            return value, None

        await self._in_steps(stream, job)
        self._recorder.log(stream, _deleted(stream.current.generation))

    async def check_delete(self, stream_id: str, expected: int | None) -> None:
        """Run the checks of `delete`. Nothing changes.

        Raises:
            UnknownError: If there is no such stream.
            MovedOnError: If it is at another generation than expected.
        """
        if await self.residence.end_resting(stream_id, expected, dry_run=True) is None:
            await self.check_change(stream_id, expected)

    def end(self, stream: Stream, value: StreamValue, *new: Answered) -> Steps[None]:
        """End a stream at its client's request, on the worker in its turn. Last answers and snapshots stay.

        `value` is the stream's last one, and `new` are answers not sent yet.
        """
        yield from self._keeper.end(stream, value, *new)
        self.table.delete(stream.id)

    async def reset(self, stream_id: str, expected: int | None) -> Stream:
        """Return a stream to its state before any batch."""
        stream = await self.residence.get_even_unfit(stream_id)

        def initial(value: StreamValue) -> StreamValue:
            check_generation(stream.id, value.generation, expected)
            return engine.reset(value)

        await self._change(stream, initial)
        self._telemetry.resets.labels(stream.model.name, "api").inc()
        self._recorder.log(stream, Happening("reset", "to the state before any batch", "reset"))
        return stream

    async def take(self, stream_id: str, name: str | None, note: str, *, drop_inputs: bool) -> tuple[Manifest, int]:
        """Snapshot a stream when its turn comes; with `drop_inputs`, without the images that wait."""
        stream = await self.residence.get(stream_id)

        def job(value: StreamValue) -> Steps[tuple[StreamValue, tuple[Manifest, int]]]:
            manifest, file = file_of(stream.id, value, name or f"g{value.generation}", note, drop_inputs=drop_inputs)
            yield partial(self._store.put, manifest.id, file)
            self._recorder.log(stream, Happening("snapshot", f"{manifest.name} ({manifest.id}) taken"))
            saved: tuple[Manifest, int] = yield partial(self._store.manifest, manifest.id)
            value = replace(value, parent=manifest.id)
            yield from self._keeper.append(stream, value, always=True)
            return value, saved

        return await self._in_steps(stream, self._counted("take", job))

    async def restore(self, stream_id: str, snapshot_id: str, expected: int | None) -> tuple[Stream, str]:
        """Continue a stream from a snapshot; return it, and the reasons why it may not replay bit for bit, or ""."""
        stream = await self.residence.get(stream_id)

        def job(value: StreamValue) -> Steps[tuple[StreamValue, str]]:
            check_generation(stream.id, value.generation, expected)
            manifest, tensors = unpack((yield partial(self._store.get, snapshot_id)))
            config = value.config
            state = state_for(stream.id, config, manifest, tensors)
            engine.check_serves(value, state)
            warnings = (warning_for(config, manifest), restarted_monitors(config, tensors))
            return replace(engine.restore(value, state), parent=manifest.id), "; ".join(filter(None, warnings))

        warning = await self._in_steps(stream, self._counted("restore", job))
        self._recorder.log(stream, Happening("restored", f"from snapshot {snapshot_id}"))
        return stream, warning

    async def check_restore(self, stream_id: str, snapshot_id: str, expected: int | None) -> tuple[Stream, str]:
        """Run the checks of `restore`. The stream does not change.

        Raises:
            MovedOnError: If the stream is at another generation than expected.
            UnfitError: If the snapshot does not fit the stream.
        """
        stream = await self.residence.get(stream_id)
        config = stream.current.config
        check_generation(stream.id, stream.current.generation, expected)

        file = await self.calls.run(partial(self._store.get, snapshot_id))

        def job() -> str:
            manifest, tensors = unpack(file)
            state_for(stream.id, config, manifest, tensors)
            return warning_for(config, manifest)

        return stream, await self._scheduler.run_outside_turns(job)

    async def label(self, stream_id: str, labels: Mapping[str, Sequence[str | int]]) -> tuple[Feedback, int, list[str]]:
        """Accept late labels by request id.

        Return the stream's feedback, the number of images labelled, and the requests that are unknown or labelled.

        Raises:
            UnfitError: If a label is no class of the model, or the number of labels differs from the number of images.
        """
        stream = await self.residence.get(stream_id)
        numbers = {name: number for number, name in enumerate(stream.model.bundle.classes)}
        numbered = {request: class_numbers(names, numbers) for request, names in labels.items()}

        def labelled() -> tuple[Feedback, int, list[str]]:
            images, right = stream.feedback.true.images, stream.feedback.true.right
            stream.feedback.check(numbered)
            unknown = [request for request, classes in numbered.items() if not stream.feedback.label(request, classes)]
            images, right = stream.feedback.true.images - images, stream.feedback.true.right - right
            self._telemetry.feedback.labels(stream.model.name, "right").inc(right)
            self._telemetry.feedback.labels(stream.model.name, "wrong").inc(images - right)
            return stream.feedback, images, unknown

        feedback, images, unknown = await self._in_steps(stream, lambda value: at_once(lambda: (value, labelled())))
        if images:
            self._recorder.log(stream, Happening("labels", f"for {images} images", figures={"images": float(images)}))
        return feedback, images, unknown

    async def upload(self, file: bytes) -> tuple[Manifest, int]:
        """Store a snapshot file that was downloaded earlier, under the id in its manifest.

        Raises:
            UnfitError: If the file is damaged, or its model is not served here.
            ConflictError: If another snapshot has its id.
        """

        def job() -> tuple[Manifest, int]:
            manifest, tensors = unpack(file)
            if manifest.fingerprint not in {model.bundle.fingerprint for model in self.models.values()}:
                raise UnfitError(f"the snapshot is of model {manifest.model!r} in a version that is not served here")
            if manifest.kind != "taken":
                content = pack(manifest.model_copy(update={"kind": "taken"}), tensors)
                manifest, _ = unpack(content)
            else:
                content = file
            self._check_id(manifest)
            self._store.put(manifest.id, content)
            self._recorder.log_by_id(manifest.stream, manifest.model, Happening("uploaded", f"snapshot {manifest.id}"))
            return manifest, len(content)

        with self._counting("upload"):
            return await self.calls.run(job)

    def snapshots(self, stream_id: str | None = None) -> Iterator[tuple[Manifest, int]]:
        """Return all snapshots, or those of one stream, with their sizes in bytes; newest first."""
        return self._store.manifests(stream_id)

    def snapshot(self, snapshot_id: str) -> tuple[Manifest, int]:
        """Return one snapshot's manifest and size in bytes."""
        return self._store.manifest(snapshot_id)

    def snapshot_file(self, snapshot_id: str) -> bytes:
        """Return one snapshot's file.

        Raises:
            UnfitError: If the file is damaged.
        """
        file = self._store.get(snapshot_id)
        unpack(file)
        return file

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Remove one snapshot."""
        manifest, _ = self._store.manifest(snapshot_id)
        self._store.delete(snapshot_id)
        self._recorder.log_by_id(manifest.stream, manifest.model, Happening("snapshot_deleted", snapshot_id))

    def _check_id(self, manifest: Manifest) -> None:
        with suppress(UnknownError):
            there, _ = self._store.manifest(manifest.id)
            if there.sha256 != manifest.sha256:
                raise ConflictError(f"another snapshot has the id {manifest.id!r}; delete it first")

    async def _fitted(self, model: HostedModel, spec: str, options: Mapping[str, Any]) -> Fitted:
        await model.try_ahead(spec, options, self._scheduler.admission.place(None))
        return await self._scheduler.run_outside_turns(lambda: model.fit(spec, options))

    def _model(self, name: str | None) -> HostedModel:
        if name is None and len(self.models) > 1:
            raise UnfitError(f"several models are served; name one of {', '.join(self.models)}")
        chosen = next(iter(self.models)) if name is None else name
        if chosen not in self.models:
            raise UnknownError(f"there is no model {chosen[:200]!r}; served are {', '.join(self.models)}")
        return self.models[chosen]

    async def _change(self, stream: Stream, change: Callable[[StreamValue], StreamValue]) -> None:
        """Commit a changed value, in the stream's turn."""
        await self._in_steps(stream, lambda value: at_once(lambda: (change(value), None)))

    async def _in_steps(self, stream: Stream, job: Job[T]) -> T:
        """Run a job in the stream's turn, and commit the value that it returns. If it fails, nothing has changed."""

        def there() -> Steps[T]:
            if self.table.find(stream.id) is not stream:
                raise UnknownError(f"stream {stream.id!r} was deleted meanwhile")
            value, result = yield from job(stream.current)
            if self.table.find(stream.id) is stream:
                yield from self._keeper.append(stream, value)
            stream.current = value
            return result

        result = await self._scheduler.submit_steps(stream, there)
        self._keeper.note(stream, soon=True)
        return result

    @contextmanager
    def _counting(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self._telemetry.snapshots.labels(action, "refused").inc()
            raise
        self._telemetry.snapshots.labels(action, "done").inc()

    def _counted(self, action: str, job: Job[T]) -> Job[T]:
        def counted(value: StreamValue) -> Steps[tuple[StreamValue, T]]:
            with self._counting(action):
                return (yield from job(value))

        return counted


def _deleted(generation: int) -> Happening:
    return Happening("deleted", f"at generation {generation}; its snapshots stay")
