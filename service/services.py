"""The server's parts, made from its settings and connected. Nothing else connects them."""

from dataclasses import dataclass
from pathlib import Path

import torch

from service.errors import ServiceError, SettingsError
from service.models.bundle import read_bundle
from service.models.gradient_trials import Trials
from service.models.hosted import HostedModel, host
from service.models.kernels.graphs.cache import Graphs
from service.models.kernels.native.background import Workshop
from service.models.worker import Worker
from service.monitoring.late_labels import Feedback
from service.serving.admission import Admission
from service.serving.controlplane import Controlplane
from service.serving.dataplane import Dataplane
from service.serving.overview import Watching
from service.serving.probe_runs import Prober
from service.serving.scheduler import Scheduler
from service.serving.shutdown import Lifecycle
from service.serving.step_watch import StepWatch
from service.serving.stream_batching import Groups
from service.serving.stream_cache import Residence, RestLimits
from service.serving.suspects import Suspects
from service.settings import Settings
from service.storage.backends import orphans
from service.storage.backends.blobs import Blobs, FolderBlobs
from service.storage.backends.catalogue import CHECKPOINTS, Catalogue
from service.storage.backends.database import Database, open_database
from service.storage.backends.objects import ObjectBlobs
from service.storage.backends.presence import Presence
from service.storage.backends.presence_watch import StoreWatch
from service.storage.checkpointer import Keeper
from service.storage.checkpoints import Checkpoints
from service.storage.ended_answers import EndedAnswers
from service.storage.event_log import EventLog
from service.storage.history_files import Histories
from service.storage.recorder import Recorder
from service.storage.snapshots.store import PLACE, SnapshotStore
from service.storage.step_journal import StepJournal
from service.storage.store_calls import StoreCalls
from service.streams.disk_spill import Spill
from service.streams.good_states import GoodStates
from service.streams.idempotency import RetryLog
from service.streams.table import StreamTable
from service.support.readiness import Readiness
from service.support.supervision import Supervisor
from service.telemetry.metrics import Telemetry
from service.telemetry.statistics import Statistics
from service.types import JsonLimits, Limits
from service.wire.decoding import Decoder

DAY = 86_400.0


@dataclass(frozen=True)
class Store:
    """The storage of a server: the database, and the blobs by kind.

    Attributes:
        database: The open database.
        places: The stores of snapshots and checkpoints, by place.
        catalogue: The table of streams.
        snapshots: The table of snapshots.
        histories: The files of the streams' histories.
        journal: The record of steps under way.
    """

    database: Database
    places: dict[str, Blobs]
    catalogue: Catalogue
    snapshots: SnapshotStore
    histories: Histories
    journal: StepJournal


@dataclass(frozen=True)
class Services:
    """The parts of a server. `make_services` connects them."""

    settings: Settings
    trials: Trials | None
    workshop: Workshop | None
    models: dict[str, HostedModel]
    telemetry: Telemetry
    statistics: Statistics
    worker: Worker
    calls: StoreCalls
    table: StreamTable
    admission: Admission
    scheduler: Scheduler
    supervisor: Supervisor
    store: Store
    events: EventLog
    keeper: Keeper
    residence: Residence
    control: Controlplane
    prober: Prober
    dataplane: Dataplane
    decoder: Decoder
    watching: Watching
    store_watch: StoreWatch
    step_watch: StepWatch
    readiness: Readiness
    lifecycle: Lifecycle


def make_services(settings: Settings) -> Services:
    """Load the models, open the store, and make all parts. Nothing runs yet.

    Raises:
        SettingsError: If settings contradict each other, or the catalogue cannot be opened.
        BundleError: If a bundle cannot be served.
    """
    torch.set_num_threads(settings.torch_threads)
    trials = _trials(settings)
    models = load_models(settings, trials)
    telemetry, statistics = Telemetry(), Statistics()
    worker, calls = Worker(settings.torch_threads), StoreCalls(settings.store_seconds)
    drop_inputs = settings.checkpoint_inputs == "drop"
    table = StreamTable(
        settings.max_streams,
        RetryLog(settings.retry_entries, settings.retry_bytes),
        lambda: Feedback(settings.feedback_images, settings.feedback_days * DAY),
        GoodStates(settings.good_bytes, Spill(settings.data / "spilled", drop_inputs=drop_inputs)),
    )
    journal = StepJournal(settings.data / "steps")
    suspects = Suspects(journal)
    admission = Admission(telemetry, max_queue=settings.max_queue, max_queue_per_stream=settings.max_queue_per_stream)
    scheduler = Scheduler(
        worker,
        admission,
        telemetry,
        Groups(settings.group_streams, telemetry),
        calls,
        deadline_seconds=settings.deadline_seconds,
        suspects=suspects,
    )
    supervisor = Supervisor(telemetry)
    store = _open_store(settings, journal)
    events = EventLog(store.database, supervisor, calls, sharded=settings.sharded)
    recorder = Recorder(telemetry, events, settings.keep_misfits)
    checkpoints = Checkpoints(
        store.catalogue, store.places[CHECKPOINTS], half=settings.half_checkpoints, drop_inputs=drop_inputs
    )
    keeper = Keeper(
        checkpoints, table, worker, recorder, telemetry, steps=settings.period_steps, seconds=settings.period_seconds,
        calls=calls, ended=EndedAnswers(settings.ended_seconds, settings.ended_bytes),
    )  # fmt: skip
    residence = Residence(
        table, keeper, models, scheduler, calls, recorder, limits=limits_of(settings), sharded=settings.sharded,
        histories=store.histories, suspects=suspects,
    )  # fmt: skip
    control = Controlplane(models, table, scheduler, calls, store.snapshots, telemetry, recorder, keeper, residence)
    prober = Prober(worker, scheduler, telemetry, recorder, settings.probe_every)
    workshop = Workshop(settings.allow_factories, settings.torch_threads) if settings.compiled_gradients else None
    dataplane = Dataplane(
        models, table, scheduler, telemetry, statistics, settings, recorder, prober, keeper, residence,
        end=control.end, workshop=workshop,
    )  # fmt: skip
    decoder = Decoder(
        request_limits_of(settings), max_pixels=settings.max_pixels_under_way, threads=settings.torch_threads,
        deadline_seconds=settings.deadline_seconds,
    )  # fmt: skip
    watching = Watching(models, table, events, suspects)
    store_watch = StoreWatch(Presence.of(filter(None, (settings.data, store.database.file))))
    step_watch = StepWatch(worker, settings.step_seconds)
    readiness = Readiness(supervisor.troubles, store_watch.troubles, step_watch.troubles)

    def drain() -> None:
        admission.refuse()
        events.wake()
        watching.close()

    return Services(
        settings, trials, workshop, models, telemetry, statistics, worker, calls, table, admission, scheduler,
        supervisor, store, events, keeper, residence, control, prober, dataplane, decoder, watching, store_watch,
        step_watch, readiness, Lifecycle(drain=drain),
    )  # fmt: skip


def _open_store(settings: Settings, journal: StepJournal) -> Store:
    """Open the storage.

    Raises:
        SettingsError: If the catalogue cannot be opened, or has no streams although the store has checkpoints of some.
    """
    places = {place: blobs_of(settings, place) for place in (PLACE, CHECKPOINTS)}
    database = _opened(settings, places[CHECKPOINTS])
    engine = database.engine
    histories = Histories(settings.data / "histories")
    return Store(database, places, Catalogue(engine), SnapshotStore(engine, places[PLACE]), histories, journal)


def _opened(settings: Settings, checkpoints: Blobs) -> Database:
    """Open the catalogue.

    Raises:
        SettingsError: If it cannot be opened, or has no streams although the store has checkpoints of some.
    """
    new = settings.new_catalogue
    database = open_database(
        settings.database, settings.data, sharded=settings.sharded, new_catalogue=new,
        store_seconds=settings.store_seconds,
    )  # fmt: skip
    try:
        orphans.check(database.engine, checkpoints, location_of(settings, CHECKPOINTS), new_catalogue=new)
    except ServiceError:
        database.close()
        raise
    return database


def blobs_of(settings: Settings, place: str) -> Blobs:
    """Return the store for a kind of blobs: under the blobs' URL, or in the data folder.

    Raises:
        SettingsError: If the URL is wrong.
    """
    location = location_of(settings, place)
    return ObjectBlobs(location) if settings.blobs else FolderBlobs(Path(location))


def location_of(settings: Settings, place: str) -> str:
    """Return the URL or folder for a kind of blobs."""
    return f"{settings.blobs.rstrip('/')}/{place}" if settings.blobs else str(settings.data / place)


def limits_of(settings: Settings) -> RestLimits:
    """Return the limits after which streams leave the memory, or end."""
    return RestLimits(settings.resident_bytes, settings.rest_after_seconds, settings.end_after_days * DAY)


def request_limits_of(settings: Settings) -> Limits:
    """Return the limits of one inference request."""
    json = JsonLimits(bytes=settings.max_json_bytes)
    return Limits(max_batch=settings.max_batch, max_pixels=settings.max_pixels, json=json)


def load_models(settings: Settings, trials: Trials | None = None) -> dict[str, HostedModel]:
    """Load every bundle, by model name.

    Raises:
        SettingsError: If two bundles have the same name, or there is none.
        BundleError: If a bundle cannot be served.
    """
    loaded: dict[str, HostedModel] = {}
    threads = settings.torch_threads
    graphs = _graphs(settings) if settings.compiled else None
    for path in settings.bundles:
        model = host(read_bundle(path), settings.allow_factories, threads, graphs, trials)
        if model.name in loaded:
            raise SettingsError(f"two bundles are named {model.name!r}: {loaded[model.name].bundle.path} and {path}")
        loaded[model.name] = model
    if not loaded:
        raise SettingsError("no bundle is given; expected at least one")
    return loaded


def _graphs(settings: Settings) -> Graphs:
    grouping = settings.group_streams > 1
    return Graphs(settings.data / "graphs", settings.torch_threads, settings.compiled_specs, grouping=grouping)


def _trials(settings: Settings) -> Trials | None:
    if not settings.try_gradients:
        return None
    return Trials(settings.data / "tried", settings.allow_factories, settings.torch_threads)
