"""Every setting of the server. Each is also an environment variable ACCLIMATE_<NAME>."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
EMBEDDED = Path(__file__).parent / "demo" / "bundle"


class Settings(BaseSettings):
    """The operator's settings. Defaults are safe on one machine."""

    model_config = SettingsConfigDict(env_prefix="ACCLIMATE_", use_attribute_docstrings=True, extra="forbid")

    bundles: tuple[Path, ...] = (EMBEDDED,)
    """Folders of the bundles to serve, as a JSON list; by default the embedded Fashion-MNIST model."""
    data: Path = Path("acclimate-data")
    """Folder for catalogue, checkpoints and snapshots that have no URL; created if needed."""
    new_catalogue: bool = False
    """Start with an empty catalogue although the store has checkpoints of streams. These streams start over."""
    database: str = ""
    """Catalogue and event log, as `postgresql+psycopg://user:password@host/name`. Default: SQLite in `data`."""
    blobs: str = ""
    """Checkpoints and snapshots, as `s3://bucket/prefix`, with credentials in AWS_* variables. Default: in `data`."""
    sharded: bool = False
    """Let several processes share one store, behind a proxy that sends each stream to one of them."""
    durability: Literal["ephemeral", "periodic", "sync"] = "periodic"
    """Default durability of streams: in memory only; saved every few steps or seconds; or saved before each answer."""
    period_steps: int = Field(default=64, ge=1)
    """Generations after which a `periodic` stream is saved. A crash loses these, and those made during one write."""
    period_seconds: float = Field(default=10.0, gt=0)
    """Seconds after which a changed `periodic` stream is saved."""
    resident_bytes: int = Field(default=2**30, ge=0)
    """Most bytes of stream states in memory. Beyond it the least recently used streams rest in the store."""
    half_checkpoints: bool = False
    """Save states in half precision, except of `sync` streams: up to half the size, with errors of about 1/2048."""
    checkpoint_inputs: Literal["keep", "drop"] = "keep"
    """Keep or drop the images of RoTTA, NOTE and the window in checkpoints and spilled states. `drop` is not exact."""
    rest_after_seconds: float = Field(default=3600.0, ge=0)
    """Seconds without a request after which a stream rests in the store; 0 for never."""
    end_after_days: float = Field(default=0.0, ge=0)
    """Days without a request after which a resting stream ends for good; 0 for never. Its snapshots stay."""
    events_days: float = Field(default=90.0, gt=0)
    """Days that events are kept."""
    host: str = "127.0.0.1"
    """Address to listen on. Any other than loopback needs keys, or `insecure`."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one and prints it."""
    insecure: bool = False
    """Listen beyond loopback without keys. Everyone who reaches the port can then infer, reset and delete."""
    keys_file: Path | None = None
    """File of API keys, one per line: sha256 of the key, scopes joined by commas, a name. See `acclimate key`."""
    allow_factories: tuple[str, ...] = ("service.demo.network:build",)
    """Model factories (`package.module:callable`) that bundles can name, as a JSON list. No others are run."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of PyTorch and ONNX Runtime; 0 for all cores that the process may use."""
    compiled: bool = True
    """Run pipelines without gradients as ONNX graphs, which are made at the first start and stored in `data`."""
    compiled_specs: tuple[str, ...] = ()
    """Pipelines, such as `unmix_tns+lame`, whose graphs are also made at the start, as a JSON list."""
    compiled_gradients: bool = False
    """Compile gradient steps to machine code, in the background, once a batch size was used 100 times."""
    try_gradients: bool = True
    """Try a spec's gradient steps in a child process before accepting it, for networks with custom layers."""
    group_streams: int = Field(default=64, ge=1)
    """Most streams whose steps are batched, where that is faster; 1 for no batching."""
    create_streams: bool = True
    """Create a stream when a request names a new one; if false, such a request gets 404."""
    max_streams: int = Field(default=100_000, ge=1)
    """Most streams at a time; beyond it, creating one gets 503."""
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    """Most bytes of a request body; beyond it 413."""
    max_json_bytes: int = Field(default=8 * 2**20, ge=1024)
    """Most bytes of a request's JSON part, without binary tensors after it; beyond it 413."""
    max_batch: int = Field(default=256, ge=1)
    """Most images in a request; beyond it 413."""
    max_pixels: int = Field(default=16_000_000, ge=1)
    """Most decoded pixels of a request's encoded images; beyond it 413."""
    max_pixels_under_way: int = Field(default=32_000_000, ge=1)
    """Most pixels of all encoded images that are being decoded or wait for their turn; beyond it 503."""
    max_held_bytes: int = Field(default=2**29, ge=1024)
    """Most bytes of all request bodies in memory; beyond it 503."""
    max_listeners: int = Field(default=128, ge=1)
    """Most clients of live updates, such as open dashboards; beyond it 503."""
    max_connections: int = Field(default=0, ge=0)
    """Most connections; beyond it idle ones close first, then 503. 0 for as many as file descriptors allow."""
    head_seconds: float = Field(default=10.0, gt=0)
    """Seconds for a request's whole head to arrive; beyond it 408."""
    min_body_rate: float = Field(default=4096.0, ge=0)
    """Minimum average bytes per second of a body, after its first 20 seconds; below it 408."""
    max_queue: int = Field(default=256, ge=1)
    """Most requests that wait or run; beyond it 503."""
    max_queue_per_stream: int = Field(default=64, ge=1)
    """Most requests of one stream that wait or run; beyond it 429."""
    rate_per_key: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Requests per second of one key, or of one client address without keys; beyond it 429. 0 for no limit."""
    rate_per_stream: float = Field(default=0.0, ge=0)
    """Inference requests per second of one stream; beyond it 429. 0 for no limit."""
    rate_burst_seconds: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Burst allowed after a pause, in seconds of `rate_per_key` or `rate_per_stream`."""
    deadline_seconds: float = Field(default=30.0, gt=0)
    """Seconds that a request may wait for its turn; beyond it 504. A step that has begun is finished."""
    drain_seconds: float = Field(default=20.0, gt=0)
    """Seconds that a stopping server waits for running requests. The stop ends a few seconds later in any case."""
    step_seconds: float = Field(default=60.0, gt=0)
    """Seconds that one step may take. Beyond it the server is not ready until the step ends."""
    store_seconds: float = Field(default=10.0, gt=0)
    """Seconds that a call to the database or the blob store may take; beyond it 503, for its stream only."""
    source_check_every: int = Field(default=20, ge=1)
    """Requests of a stream between two measurements of its agreement with the source model."""
    probe_every: int = Field(default=50, ge=0)
    """Learning steps of a stream between two measurements of its forgetting; 0 for never."""
    good_bytes: int = Field(default=16 * 2**20, ge=0)
    """Most bytes in memory, per stream, of good states for the guard to roll back to; others lie in files."""
    keep_misfits: int = Field(default=0, ge=0, le=64)
    """Images per stream, in memory, that it was unsure of, for the dashboard; 0 for none."""
    feedback_images: int = Field(default=10_000, ge=0)
    """Answered images per stream that late labels are accepted for."""
    feedback_days: float = Field(default=7.0, gt=0)
    """Days after an answer during which its late labels are accepted."""
    retry_entries: int = Field(default=32, ge=0)
    """Answers kept per stream for retries."""
    retry_bytes: int = Field(default=2**20, ge=0)
    """Most bytes of answers kept per stream for retries."""
    ended_seconds: float = Field(default=600.0, ge=0)
    """Seconds that a stream's last answers are kept for retries after `sequence_end`."""
    ended_bytes: int = Field(default=64 * 2**20, ge=0)
    """Most bytes of these answers, for all ended streams together."""

    @property
    def torch_threads(self) -> int:
        """The number of threads for computations."""
        return self.threads or available_cores()


def available_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's CPU quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or no quota ("max")
        return allowed
