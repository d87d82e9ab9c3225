"""Latency under an open-loop load: `python -m benchmarks.arrivals --help`.

First, a real server answers clients that each wait for an answer before they send again. This measures its capacity.
Then requests arrive at a constant rate, a share of the capacity, whether or not earlier ones are answered. Latency
counts from the time when a request was due, so that delays of the server or the client are included. Each round
measures the capacity again and then runs all rates in turn; the table shows medians over the rounds. The client shares
the server's cores. `late` is how late it sent; if that is large, the client cannot send at this rate.
"""

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from ssl import create_default_context
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import httpx
import numpy as np
import typer
from rich.table import Table

from benchmarks import report
from benchmarks.machine import machine
from benchmarks.report import Data, JsonFile
from benchmarks.serving import INFER, MODEL, body_of, folders_of, serving_resnet20

CLIENTS = 64
"""Number of httpx clients. There are several, because httpx searches all of a client's connections at each request."""
SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)
ANSWERED, LOST = 200, 0
REFUSED = frozenset({429, 503})
"""The statuses of a full queue, of a stream or of the server."""


@dataclass(frozen=True)
class Request:
    """A body to send repeatedly, and its headers."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """The result of a request.

    Attributes:
        status: The HTTP status; 0 if the connection was lost.
        due: When it was due, in seconds from the start.
        late: How late it was sent, in seconds.
        seconds: Time from when it was due until it was answered.
    """

    status: int
    due: float
    late: float
    seconds: float


@dataclass(frozen=True)
class Load:
    """The results at one rate.

    Attributes:
        share: The offered rate as a share of the capacity.
        offered: Requests sent per second.
        answered: Requests answered per second, until the last answer.
        reached: The answered rate as a share of the capacity.
        refused: Share of requests refused because a queue was full.
        failed: Share of requests refused for another reason, or lost.
        median, p99, most: Latency of the answered requests in milliseconds.
        late: 99th percentile of how late requests were sent, in milliseconds.
    """

    share: float
    offered: float
    answered: float
    reached: float
    refused: float
    failed: float
    median: float
    p99: float
    most: float
    late: float


async def send(client: httpx.AsyncClient, request: Request, began: float, due: float) -> Answer:
    """Send a request that is due `due` seconds after `began`, and return its result."""
    late = max(0.0, perf_counter() - began - due)
    try:
        response = await client.post(INFER, content=request.content, headers=dict(request.headers))
        status = response.status_code
    except httpx.TransportError:
        status = LOST
    return Answer(status, due, late, perf_counter() - began - due)


async def capacity(clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], seconds: float) -> float:
    """Return the answers per second if each request is sent again as soon as it is answered.

    Raises:
        RuntimeError: If a request fails.
    """
    began = perf_counter()

    async def repeat(client: httpx.AsyncClient, request: Request) -> int:
        answered = 0
        while perf_counter() < began + seconds:
            answer = await send(client, request, began, perf_counter() - began)
            if answer.status != ANSWERED:
                raise RuntimeError(f"a request was answered by {answer.status}")
            answered += 1
        return answered

    answered = sum(await asyncio.gather(*map(repeat, cycle(clients), requests)))
    return answered / (perf_counter() - began)


async def open_loop(
    clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], rate: float, seconds: float
) -> list[Answer]:
    """Send requests in turn at a constant rate for `seconds`, and return their results once all are answered."""
    tasks, began = [], perf_counter()
    for number in range(max(1, round(rate * seconds))):
        due = number / rate
        await asyncio.sleep(max(0.0, began + due - perf_counter()))
        client, request = clients[number % len(clients)], requests[number % len(requests)]
        tasks.append(asyncio.create_task(send(client, request, began, due)))
    return await asyncio.gather(*tasks)


def load_of(answers: Sequence[Answer], share: float, most: float, seconds: float) -> Load:
    """Summarise the answers at a share of the capacity `most` over `seconds`; without answers, latency is NaN."""
    count = len(answers)
    good = [answer for answer in answers if answer.status == ANSWERED]
    refused = sum(answer.status in REFUSED for answer in answers)
    ended = max(seconds, *(answer.due + answer.seconds for answer in answers))
    latencies = 1000 * np.array([answer.seconds for answer in good] or [np.nan])
    return Load(
        share=share,
        offered=count / seconds,
        answered=len(good) / ended,
        reached=len(good) / ended / most,
        refused=refused / count,
        failed=(count - refused - len(good)) / count,
        median=float(np.median(latencies)),
        p99=float(np.quantile(latencies, 0.99)),
        most=float(latencies.max()),
        late=1000 * float(np.quantile([answer.late for answer in answers], 0.99)),
    )


def summed_up(loads: Sequence[Load]) -> Load:
    """Return the medians over rounds, and the longest latency of all rounds."""
    rounds = [asdict(load) for load in loads]
    figures = {name: median(each[name] for each in rounds) for name in rounds[0]}
    return Load(**{**figures, "most": max(load.most for load in loads)})


@dataclass(frozen=True)
class Plan:
    """The shares of the capacity to offer, the number of rounds, and the seconds for each share."""

    shares: Sequence[float]
    rounds: int
    seconds: float


async def measure(
    clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], plan: Plan, advance: Callable[[str], None]
) -> tuple[float, list[Load]]:
    """Offer all shares in rounds; return the median capacity and a load for each share.

    `advance` is called with a description of each measurement.
    """
    capacities, found = [], {share: list[Load]() for share in plan.shares}
    await capacity(clients, requests, plan.seconds)
    advance("warmed up")
    for _ in range(plan.rounds):
        capacities.append(await capacity(clients, requests, plan.seconds))
        advance(f"capacity {capacities[-1]:.0f} a second")
        for share, loads in found.items():
            answers = await open_loop(clients, requests, share * capacities[-1], plan.seconds)
            loads.append(load_of(answers, share, capacities[-1], plan.seconds))
            advance(f"{share:g} of it: {loads[-1].median:.1f} ms")
    return median(capacities), [summed_up(loads) for loads in found.values()]


async def run(
    url: str, spec: str, batch: np.ndarray, streams: int, plan: Plan, advance: Callable[[str], None]
) -> tuple[float, list[Load]]:
    """Create streams, and measure with a batch (N, C, H, W) as every request."""
    settings: dict[str, Any] = {
        "base_url": url,
        "timeout": 60,
        "limits": httpx.Limits(),
        "verify": create_default_context(),
    }
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(httpx.AsyncClient(**settings)) for _ in range(CLIENTS)]
        ids = [f"s{number}" for number in range(streams)]
        for each in ids:
            body = {"id": each, "model": MODEL, "adapter": spec}
            (await clients[0].post("/v1/streams", json=body)).raise_for_status()
        requests = [Request(*body_of(batch, each)) for each in ids]
        return await measure(clients, requests, plan, advance)


def main(
    data: Data,
    share: Annotated[
        list[float], typer.Option(min=0.01, max=4, help="Rates, as shares of the measured capacity; repeat.")
    ] = list(SHARES),  # noqa: B006
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    streams: Annotated[int, typer.Option(min=1, help="Streams that get the requests in turn.")] = 16,
    images: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 1,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Seconds for each rate and each measurement of the capacity.")
    ] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the table shows medians.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime in the server.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """Measure latency and refusals of a server at constant request rates, on the CIFAR ResNet-20.

    It takes (rounds x (rates + 1) + 1) x seconds, plus the server's start.
    """
    batch = np.load(data / "brightness.npy")[:images].transpose(0, 3, 1, 2).astype(np.float32) / 255
    plan = Plan(share, rounds, seconds)
    with tempfile.TemporaryDirectory() as name, report.progress() as progress:
        folders = folders_of(Path(name), data / "resnet20.safetensors")
        task = progress.add_task("starting", total=rounds * (len(share) + 1) + 1)
        with serving_resnet20(folders, threads, [spec]) as server:

            def advance(found: str) -> None:
                progress.update(task, description=found, advance=1)

            most, loads = asyncio.run(run(server.url, spec, batch, streams, plan, advance))
    about = {
        "spec": spec,
        "streams": str(streams),
        "images per request": str(len(batch)),
        "seconds": f"{seconds:g}",
        "rounds": str(rounds),
        "capacity": f"{most:.0f} requests a second",
        **machine(threads),
    }
    figures = {**about, "capacity": most, "loads": [asdict(load) for load in loads]}
    report.write(as_table(loads, about), width=120, figures=figures, json_file=json_file)


def as_table(loads: Sequence[Load], about: Mapping[str, str]) -> Table:
    """Return the figures as a table."""
    title = "Open loop: requests per second, and milliseconds from when they were due"
    headings = (
        "of capacity", "offered", "answered", "reached", "refused", "failed", "p50 ms", "p99 ms", "max ms", "late ms",
    )  # fmt: skip
    table = report.new_table(title, headings, caption=report.lines_of(about))
    for load in loads:
        rates = (f"{load.share:g}", f"{load.offered:.1f}", f"{load.answered:.1f}", f"{load.reached:.2f}")
        lost = (f"{100 * load.refused:.1f} %", f"{100 * load.failed:.1f} %")
        times = (f"{each:.1f}" for each in (load.median, load.p99, load.most, load.late))
        table.add_row(*rates, *lost, *times, style="red" if load.failed else "")
    return table


if __name__ == "__main__":
    typer.run(main)
