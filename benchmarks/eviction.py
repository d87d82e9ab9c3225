"""What many streams cost: `python -m benchmarks.eviction --help`.

A real server on the embedded bundle gets more streams than its memory may hold, and rests those used longest ago. First
every stream is made and asked once; then each of a sample of those that rest is asked twice, one after the other: the
first time it is brought back, the second it is in memory.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.asking import Asking, Latency, latency_of, serving_embedded
from benchmarks.server import most_rss_of
from service.client import Client

MOST_BYTES = 2 * 2**30
"""What the process may take."""
GIB = 2**30


@dataclass(frozen=True)
class Figures:
    """What was found.

    Attributes:
        made, again: Streams made and asked a second, and requests a second to those asked again.
        rss: The most bytes that the process took.
        resting, awake: Of requests to streams that rest, and to those in memory.
    """

    streams: int
    made: float
    again: float
    rss: int
    resting: Latency
    awake: Latency

    @property
    def passes(self) -> bool:
        """Whether the process stayed as small as it should."""
        return self.rss <= MOST_BYTES


def measure(asking: Asking, pid: int, streams: int, sample: int, progress: Progress) -> Figures:
    """Make all streams, then ask a sample of those that rest, in any order."""
    ids = [f"s{number}" for number in range(streams)]
    began = perf_counter()
    for stream in progress.track(ids, description="made"):
        asking.create(stream)
        asking.infer(stream)
    between = perf_counter()
    resting, awake = [], []
    there = asking.resting()
    for stream in progress.track(Random(0).sample(there, min(sample, len(there))), description="asked again"):
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
    sample: Annotated[int, typer.Option(min=1, help="Resting streams that are asked again.")] = 1_000,
    resident_mib: Annotated[int, typer.Option(min=0, help="Most MiB of streams' states in memory.")] = 256,
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    durability: Annotated[str, typer.Option(help="Of all streams.")] = "periodic",
    batch: Annotated[int, typer.Option(min=1, help="Images per request.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure throughput, memory and latency of a server with more streams than it may hold in memory."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_embedded(Path(folder), threads, spec, resident_mib) as server,
        Client(server.url) as client,
        Progress(console=Console(stderr=True)) as progress,
    ):
        found = measure(Asking(client, spec, durability, batch), server.pid, streams, sample, progress)
    Console(width=100).print(as_table(found))
    if json_file is not None:
        json_file.write_text(json.dumps(asdict(found), indent=1) + "\n")


def as_table(found: Figures) -> Table:
    """Lay the figures out."""
    within = "within" if found.passes else "above"
    title = f"{found.streams} streams: at most {found.rss / GIB:.2f} GiB, {within} {MOST_BYTES / GIB:g}"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for name in ("requests", "number", "median ms", "p99 ms"):
        table.add_column(name, justify="left" if name == "requests" else "right")
    for name, each in (("to a resting stream", found.resting), ("to one in memory", found.awake)):
        table.add_row(name, str(each.requests), f"{each.median:.1f}", f"{each.p99:.1f}")
    table.add_section()
    table.add_row("made and asked, a second", f"{found.made:.0f}", "", "")
    table.add_row("asked again, a second", f"{found.again:.0f}", "", "")
    return table


if __name__ == "__main__":
    typer.run(main)
