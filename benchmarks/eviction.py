"""The cost of streams that are not in memory: `python -m benchmarks.eviction --help`.

A real server of the embedded bundle gets more streams than its memory may hold, and moves the least recently used ones
to its store. First, every stream is created and gets one request. Then each stream of a sample of those in the store
gets two consecutive requests: the first one loads it, and the second one finds it in memory.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Annotated

import typer
from rich.progress import Progress
from rich.table import Table

from benchmarks import report
from benchmarks.asking import Asking, Latency, latency_of, serving_embedded
from benchmarks.report import JsonFile
from benchmarks.server import most_rss_of
from service.client import Client

MOST_BYTES = 2 * 2**30
"""Most memory that the process may use."""
GIB = 2**30


@dataclass(frozen=True)
class Figures:
    """The measurements.

    Attributes:
        streams: The number of streams.
        made: Streams created and queried per second.
        again: Requests per second to the sample.
        rss: The peak of the process's memory in bytes.
        resting, awake: Latency of requests to streams in the store, and to streams in memory.
    """

    streams: int
    made: float
    again: float
    rss: int
    resting: Latency
    awake: Latency

    @property
    def passes(self) -> bool:
        """Whether the process's memory stayed within MOST_BYTES."""
        return self.rss <= MOST_BYTES


def measure(asking: Asking, pid: int, streams: int, sample: int, progress: Progress) -> Figures:
    """Create all streams, then send requests to a random sample of those in the store."""
    ids = [f"s{number}" for number in range(streams)]
    began = perf_counter()
    for stream in progress.track(ids, description="made"):
        asking.create(stream)
        asking.infer(stream)
    between = perf_counter()
    resting, awake = [], []
    stored = asking.resting()
    for stream in progress.track(Random(0).sample(stored, min(sample, len(stored))), description="asked again"):
        resting.append(asking.infer(stream))
        awake.append(asking.infer(stream))
    return Figures(
        streams=streams,
        made=streams / (between - began),
        again=2 * len(awake) / max(sum(resting + awake), 1e-9),
        rss=most_rss_of(pid),
        resting=latency_of(resting),
        awake=latency_of(awake),
    )


def main(
    streams: Annotated[int, typer.Option(min=1, help="Streams.")] = 10_000,
    sample: Annotated[int, typer.Option(min=1, help="Stored streams that get further requests.")] = 1_000,
    resident_mib: Annotated[int, typer.Option(min=0, help="Most MiB of streams' states in memory.")] = 256,
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    durability: Annotated[str, typer.Option(help="Durability of all streams.")] = "periodic",
    batch: Annotated[int, typer.Option(min=1, help="Images per request.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Measure throughput, memory and latency of a server with more streams than fit in its memory."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_embedded(Path(folder), threads, spec, resident_mib) as server,
        Client(server.url) as client,
        report.progress() as progress,
    ):
        found = measure(Asking(client, spec, durability, batch), server.pid, streams, sample, progress)
    report.write(as_table(found), width=100, figures=asdict(found), json_file=json_file)


def as_table(found: Figures) -> Table:
    """Return the figures as a table."""
    within = "within" if found.passes else "above"
    title = f"{found.streams} streams: at most {found.rss / GIB:.2f} GiB, {within} {MOST_BYTES / GIB:g}"
    table = report.new_table(title, ("requests", "number", "median ms", "p99 ms"), ("requests",))
    for name, each in (("to a resting stream", found.resting), ("to one in memory", found.awake)):
        table.add_row(name, str(each.requests), f"{each.median:.1f}", f"{each.p99:.1f}")
    table.add_section()
    table.add_row("made and asked, a second", f"{found.made:.0f}", "", "")
    table.add_row("asked again, a second", f"{found.again:.0f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
