"""Throughput, memory and latency by the number of streams: `python -m benchmarks.crowds --help`.

For each number of streams, a new server of the embedded bundle starts, with graphs that were made before. All streams
are created. Then a few clients, which each wait for an answer before they send again, send one image per request. They
go through all streams in a random order, then in another, so that consecutive requests mostly go to different streams.
First requests cost more and are shown separately. For the others, the table shows medians over rounds, and their ratio
to the smallest number of streams. The clients share the server's cores.
"""

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
from rich.table import Table

from benchmarks import report
from benchmarks.asking import Asking, Latency, latency_of, serving_embedded
from benchmarks.machine import machine
from benchmarks.report import JsonFile
from benchmarks.server import rss_of
from service.client import Client

STREAMS = (1, 10, 100, 1_000, 10_000)
MIB = 2**20


@dataclass(frozen=True)
class Plan:
    """The number of concurrent clients, requests per round, rounds, and the seed of the streams' order."""

    clients: int
    requests: int
    rounds: int
    seed: int

    def warming(self, streams: int) -> int:
        """Return the number of warm-up requests; together with the streams' first requests they are one round."""
        return max(0, self.requests - streams)

    def calls(self, streams: int) -> int:
        """Return the total number of calls, including those that create the streams."""
        return 2 * streams + self.warming(streams) + self.rounds * self.requests


@dataclass(frozen=True)
class Crowd:
    """The results for one number of streams.

    Attributes:
        streams: The number of streams.
        made, first: Streams created per second, and first requests answered per second.
        throughput: Requests answered per second; the median over rounds.
        latency: The latency of these requests over all rounds.
        rss: The server's memory in bytes after the last request.
        resting: Streams that the server had moved out of memory by then.
    """

    streams: int
    made: float
    first: float
    throughput: float
    latency: Latency
    rss: int
    resting: int


def order_of(streams: Sequence[str], seed: int) -> Iterator[str]:
    """Yield all streams in a random order, then in another, endlessly."""
    random = Random(seed)
    while True:
        yield from random.sample(streams, len(streams))


def measure(asking: Asking, pid: int, streams: int, plan: Plan, advance: Callable[[], object]) -> Crowd:
    """Create streams and send requests to them; `advance` is called once per stream and once per request."""
    ids = [f"s{number}" for number in range(streams)]
    order, rates, times = order_of(ids, plan.seed), [], list[float]()

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
            times += clients.map(infer, islice(order, plan.requests))
            rates.append(plan.requests / (perf_counter() - began))
    return Crowd(streams, made, first, median(rates), latency_of(times), rss_of(pid), len(asking.resting()))


def folders_of(folder: Path, count: int, threads: int, spec: str, resident_mib: int) -> Iterator[Path]:
    """Yield data folders for servers. They hold the graphs of a first server, because making graphs takes memory."""
    (first := folder / "first").mkdir()
    with serving_embedded(first, threads, spec, resident_mib):
        (graphs := first / "graphs").mkdir(exist_ok=True)  # stays empty if graphs are switched off
    for number in range(count):
        (data := folder / str(number)).mkdir()
        shutil.copytree(graphs, data / "graphs")
        yield data
        shutil.rmtree(data)


def main(
    streams: Annotated[list[int], typer.Option(min=1, max=100_000, help="Streams; repeat.")] = list(STREAMS),  # noqa: B006
    clients: Annotated[int, typer.Option(min=1, max=64, help="Concurrent clients.")] = 4,
    requests: Annotated[int, typer.Option(min=1, help="Requests per round.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the table shows medians.")] = 5,
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    durability: Annotated[str, typer.Option(help="Durability of all streams.")] = "periodic",
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 1,
    resident_mib: Annotated[int, typer.Option(min=0, help="Most MiB of streams' states in memory.")] = 1024,
    seed: Annotated[int, typer.Option(help="Seed of the streams' order.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime in the server.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Measure throughput, memory and latency of a server by the number of its streams, on the embedded model."""
    plan, counts, found = Plan(clients, requests, rounds, seed), sorted(set(streams)), list[Crowd]()
    with tempfile.TemporaryDirectory() as name, report.progress() as progress:
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
    figures = {**about, "crowds": [asdict(each) for each in found]}
    report.write(as_table(found, about), width=110, figures=figures, json_file=json_file)


def as_table(found: Sequence[Crowd], about: Mapping[str, str]) -> Table:
    """Return the figures as a table; ratios are to the first row."""
    headings = ("streams", "made/s", "first asked/s", "asked/s", "ratio", "p50 ms", "p99 ms", "RSS MiB", "resting")
    table = report.new_table("A server by the number of its streams", headings, caption=report.lines_of(about))
    for each in found:
        rates = (f"{rate:.0f}" for rate in (each.made, each.first, each.throughput))
        ratio = f"{each.throughput / found[0].throughput:.2f}"
        times = (f"{each.latency.median:.1f}", f"{each.latency.p99:.1f}")
        table.add_row(str(each.streams), *rates, ratio, *times, f"{each.rss / MIB:.0f}", str(each.resting))
    return table


if __name__ == "__main__":
    typer.run(main)
