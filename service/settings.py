"""Every setting of the server; each is also an environment variable ACCLIMATE_<NAME>."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
EMBEDDED = Path(__file__).parent / "demo" / "bundle"


class Settings(BaseSettings):
    """What an operator may set. Defaults are safe on one machine."""

    model_config = SettingsConfigDict(env_prefix="ACCLIMATE_", use_attribute_docstrings=True, extra="forbid")

    bundles: tuple[Path, ...] = (EMBEDDED,)
    """Folders of the bundles to serve, as a JSON list; without any, the embedded Fashion-MNIST model."""
    data: Path = Path("acclimate-data")
    """Folder for catalogue, checkpoints and snapshots, where these have no URL; made if it is not there."""
    new_catalogue: bool = False
    """Start with an empty catalogue although checkpoints of streams lie beside it: these streams begin anew."""
    database: str = ""
    """Catalogue and event log, as `postgresql+psycopg://user:password@host/name`; SQLite in `data` without it."""
    blobs: str = ""
    """Checkpoints and snapshots, as `s3://bucket/prefix`, with credentials in AWS_* variables; in `data` without it."""
    sharded: bool = False
    """Let several processes share one store, behind a proxy that sends each stream to one of them."""
    durability: Literal["ephemeral", "periodic", "sync"] = "periodic"
    """Of streams that do not say: in memory alone; kept every few steps or seconds; or before each answer."""
    period_steps: int = Field(default=64, ge=1)
    """Generations after which a `periodic` stream is kept, so that a crash loses no more, and those of one write."""
    period_seconds: float = Field(default=10.0, gt=0)
    """Seconds after which a `periodic` stream that has changed is kept."""
    resident_bytes: int = Field(default=2**30, ge=0)
    """Most bytes of streams' states in memory; beyond it those used longest ago rest in the store until asked for."""
    half_checkpoints: bool = False
    """Keep what streams have learned in half precision, but `sync` ones: up to half the room, about 1/2048 off."""
    checkpoint_inputs: Literal["keep", "drop"] = "keep"
    """Whether checkpoints and good states in files hold images of RoTTA, NOTE and the window; `drop` is not exact."""
    rest_after_seconds: float = Field(default=3600.0, ge=0)
    """Seconds without a request after which a stream rests in the store; 0 for never."""
    end_after_days: float = Field(default=0.0, ge=0)
    """Days without a request after which a resting stream is ended for good; 0 for never. Its snapshots stay."""
    events_days: float = Field(default=90.0, gt=0)
    """Days that events are kept."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything but loopback needs keys, or `insecure`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and prints it."""
    insecure: bool = False
    """Listen beyond loopback without keys: everyone who reaches the port may infer, reset and delete."""
    keys_file: Path | None = None
    """File of API keys, one a line: sha256 of the key, scopes joined by commas, a name. See `acclimate key`."""
    allow_factories: tuple[str, ...] = ("service.demo.network:build",)
    """The model factories (`package.module:callable`) that bundles may name, as a JSON list; no others are run."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of PyTorch and ONNX Runtime; 0 takes all cores that the process may use."""
    compiled: bool = True
    """Run pipelines that learn without gradients as ONNX graphs, made at the first start and kept in `data`."""
    compiled_specs: tuple[str, ...] = ()
    """Pipelines, as `unmix_tns+lame`, whose graphs are made at the start beside the bundle's own, as a JSON list."""
    compiled_gradients: bool = False
    """Compile steps that learn by gradients to machine code, beside the server, once a size was asked 100 times."""
    try_gradients: bool = True
    """Before a spec is accepted, take gradient steps in a child process, for networks with layers of their own."""
    group_streams: int = Field(default=64, ge=1)
    """Most streams whose steps are taken as one, where that pays; 1 for none."""
    create_streams: bool = True
    """Create a stream when a request names one not seen before; false answers 404."""
    max_streams: int = Field(default=100_000, ge=1)
    """Most streams at a time; beyond it creating one answers 503."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Most bytes of one request body; beyond it 413."""
    max_json_bytes: int = Field(default=8 * 2**20, ge=1024)
    """Most bytes of a request's JSON part, apart from binary tensors behind it; beyond it 413."""
    max_batch: int = Field(default=256, ge=1)
    """Most images of one request; beyond it 413."""
    max_pixels: int = Field(default=16_000_000, ge=1)
    """Most pixels of the encoded images of one request, decoded; beyond it 413."""
    max_pixels_under_way: int = Field(default=32_000_000, ge=1)
    """Most pixels of all encoded images that are being decoded, or wait decoded for their turn; beyond it 503."""
    max_held_bytes: int = Field(default=2**29, ge=1024)
    """Most bytes of all request bodies in memory at a time; beyond it 503."""
    max_listeners: int = Field(default=128, ge=1)
    """Most clients that listen to events or figures at a time, as every open dashboard does; beyond it 503."""
    max_connections: int = Field(default=0, ge=0)
    """Most connections at a time; beyond it idle ones close first, then 503. 0: as file descriptors allow."""
    head_seconds: float = Field(default=10.0, gt=0)
    """Seconds in which the whole head of a request must come; beyond it 408."""
    min_body_rate: float = Field(default=4096.0, ge=0)
    """Bytes per second at which a body must come on average, after its first 20 seconds; below it 408."""
    max_queue: int = Field(default=256, ge=1)
    """Most requests that wait or run at a time; beyond it 503."""
    max_queue_per_stream: int = Field(default=64, ge=1)
    """Most requests of one stream that wait or run at a time; beyond it 429."""
    rate_per_key: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Requests a second that one key, or without keys one client address, may send; beyond it 429. 0 for any."""
    rate_per_stream: float = Field(default=0.0, ge=0)
    """Inference requests a second that one stream may get; beyond it 429. 0 for no limit."""
    rate_burst_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Seconds' worth of `rate_per_key` that may come at once after a pause."""
    deadline_seconds: float = Field(default=30.0, gt=0)
    """How long a request may wait for its turn; beyond it 504. A step that has begun is finished."""
    drain_seconds: float = Field(default=20.0, gt=0)
    """How long a stopping server waits for requests under way; a stop ends some seconds later, whatever hangs."""
    step_seconds: float = Field(default=60.0, gt=0)
    """Seconds that one step may take; beyond it the server is not ready until the step is over."""
    store_seconds: float = Field(default=10.0, gt=0)
    """Seconds that a call of the database or of the blobs' store may take; beyond it 503, for its stream alone."""
    source_check_every: int = Field(default=20, ge=1)
    """Requests of a stream between two measurements of its agreement with the source model."""
    probe_every: int = Field(default=50, ge=0)
    """Learning steps of a stream between two measurements of what it has forgotten; 0 for never."""
    good_bytes: int = Field(default=16 * 2**20, ge=0)
    """Most bytes in memory, per stream, of the good states that its guard may go back to; the others lie in files."""
    keep_misfits: int = Field(default=0, ge=0, le=64)
    """Images that a stream was unsure of, kept per stream in memory for the dashboard; none unless it is allowed."""
    feedback_images: int = Field(default=10_000, ge=0)
    """Answered images per stream that late labels are still taken for."""
    feedback_days: float = Field(default=7.0, gt=0)
    """Days that late labels are still taken for."""
    retry_entries: int = Field(default=32, ge=0)
    """Answers kept per stream for retries with the same request id."""
    retry_bytes: int = Field(default=2**20, ge=0)
    """Most bytes of answers kept per stream for retries."""
    ended_seconds: float = Field(default=600.0, ge=0)
    """Seconds for which the last answers of a stream are kept for retries after `sequence_end`."""
    ended_bytes: int = Field(default=64 * 2**20, ge=0)
    """Most bytes of these answers, of all ended streams together."""

    @property
    def torch_threads(self) -> int:
        """The number of threads to compute with."""
        return self.threads or available_cores()


def available_cores() -> int:
    """Return how many cores this process may use: by its affinity and, in a container, its CPU quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or no quota ("max")
        return allowed
