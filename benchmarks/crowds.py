"""What it brings and takes to have ever more streams: `python -m benchmarks.crowds --help`.

For each number of streams a real server on the embedded bundle starts anew, with graphs that were made before. All
streams are made, then a few clients, of which each waits for its answer before it sends again, ask them one image each:
every stream once in a random order, then again in another, so that the next request mostly is another stream's. First
requests cost more, and are told by themselves; of the rest medians over rounds are shown, and their ratio to the fewest
streams'. The clients share the cores.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.asking import Asking, Latency, latency_of, serving_embedded
from benchmarks.machine import machine
from benchmarks.server import rss_of
from service.client import Client

STREAMS = (1, 10, 100, 1_000, 10_000)
MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """How streams are asked: by so many clients at a time, so often in each of some rounds, in a seed's order."""

    clients: int
    requests: int
    rounds: int
    seed: int

    def warming(self, streams: int) -> int:
        """Return the requests that warm up, beside the first of so many streams: a round with these."""
        return max(0, self.requests - streams)

    def calls(self, streams: int) -> int:
        """Return all calls to so many streams, those that make them too."""
        return 2 * streams + self.warming(streams) + self.rounds * self.requests


@dataclass(frozen=True)
class Crowd:
    """What a number of streams brought and took.

    Attributes:
        made, first: Streams made a second, and their first requests a second.
        throughput: Requests answered a second; the median over rounds.
        latency: Of these requests, in all rounds together.
        rss: Bytes that the server took in memory after the last of them.
        resting: Streams that it had put to rest by then.
    """

    streams: int
    made: float
    first: float
    throughput: float
    latency: Latency
    rss: int
    resting: int


def order_of(streams: Sequence[str], seed: int) -> Iterator[str]:
    """Yield all streams in a random order, then in another, without an end."""
    random = Random(seed)
    while True:
        yield from random.sample(streams, len(streams))


def measure(asking: Asking, pid: int, streams: int, plan: Plan, advance: Callable[[], object]) -> Crowd:
    """Make streams and ask them; advance once a stream, and once a request."""
    ids = [f"s{number}" for number in range(streams)]
    order, rates, asked = order_of(ids, plan.seed), [], list[float]()

    def infer(stream: str) -> float:
        seconds = asking.infer(stream)
        advance()
        return seconds

    with ThreadPoolExecutor(plan.clients) as clients:
        began = perf_counter()
        for _ in clients.map(asking.create, ids):
            advance()
        made, began = streams / (perf_counter() - began), perf_counter()
        list(clients.map(infer, islice(order, streams)))
        first = streams / (perf_counter() - began)
        list(clients.map(infer, islice(order, plan.warming(streams))))
        for _ in range(plan.rounds):
            began = perf_counter()
            asked += clients.map(infer, islice(order, plan.requests))
            rates.append(plan.requests / (perf_counter() - began))
    return Crowd(streams, made, first, median(rates), latency_of(asked), rss_of(pid), len(asking.resting()))


def folders_of(folder: Path, count: int, threads: int, spec: str, resident_mib: int) -> Iterator[Path]:
    """Yield folders for the data of servers, with graphs that a first server made: to make them takes memory."""
    (first := folder / "first").mkdir()
    with serving_embedded(first, threads, spec, resident_mib):
        (graphs := first / "graphs").mkdir(exist_ok=True)  # none are made where that is switched off
    for number in range(count):
        (data := folder / str(number)).mkdir()
        shutil.copytree(graphs, data / "graphs")
        yield data
        shutil.rmtree(data)


def main(
    streams: Annotated[list[int], typer.Option(min=1, max=100_000, help="Streams; repeat.")] = list(STREAMS),  # noqa: B006
    clients: Annotated[int, typer.Option(min=1, max=64, help="Clients that ask at a time.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests per round.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Of which the median is shown.")] = 5,
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    durability: Annotated[str, typer.Option(help="Of all streams.")] = "periodic",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 1,
    resident_mib: Annotated[int, typer.Option(min=0, help="Most MiB of streams' states in memory.")] = 1024,
    seed: Annotated[int, typer.Option(help="Of the order in which streams are asked.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime in the server.")] = 1,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure throughput, memory and latency of a server by the number of its streams, on the embedded model."""
    plan, counts, found = Plan(clients, requests, rounds, seed), sorted(set(streams)), list[Crowd]()
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("starting", total=sum(map(plan.calls, counts)))
        folders = folders_of(Path(name), len(counts), threads, spec, resident_mib)
        for count, data in zip(counts, folders, strict=True):
            progress.update(task, description=f"{count} streams")
            with serving_embedded(data, threads, spec, resident_mib) as server, Client(server.url) as client:
                asking = Asking(client, spec, durability, batch)
                found.append(measure(asking, server.pid, count, plan, lambda: progress.advance(task)))
    about = {
        "spec": spec,
        "durability": durability,
        "images per request": str(batch),
        "clients": str(clients),
        "requests per round": str(requests),
        "rounds": str(rounds),
        **machine(threads),
    }
    Console(width=110).print(as_table(found, about))
    if json_file is not None:
        json_file.write_text(json.dumps({**about, "crowds": [asdict(each) for each in found]}, indent=1) + "\n")


def as_table(found: Sequence[Crowd], about: Mapping[str, str]) -> Table:
    """Lay the figures out; ratios are to the first."""
    caption = "\n".join(f"{name} {value}" for name, value in about.items())
    table = Table(title="A server by the number of its streams", caption=caption, box=box.SIMPLE_HEAD)
    for name in ("streams", "made/s", "first asked/s", "asked/s", "ratio", "p50 ms", "p99 ms", "RSS MiB", "resting"):
        table.add_column(name, justify="right")
    for each in found:
        rates = (f"{rate:.0f}" for rate in (each.made, each.first, each.throughput))
        ratio = f"{each.throughput / found[0].throughput:.2f}"
        times = (f"{each.latency.median:.1f}", f"{each.latency.p99:.1f}")
        table.add_row(str(each.streams), *rates, ratio, *times, f"{each.rss / MIB:.0f}", str(each.resting))
    return table


if __name__ == "__main__":
    typer.run(main)
