"""Latency under a load that does not wait for answers: `python -m benchmarks.arrivals --help`.

A real server first answers clients of which each waits for its answer before it sends again: that shows what it can do.
Then requests come at a constant rate, a share of that, whether or not earlier ones are answered. Latency counts from
the instant at which a request was due, so that a server or client that is held up hides nothing. The rates follow each
other turn by turn, each round with a capacity of its own; medians over the rounds are shown. The client shares the
cores: `late` says how late it sent, and where that is much, the rate is more than the client can send.
"""

import asyncio
import json
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
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.serving import INFER, MODEL, body_of, folders_of, serving_resnet20

CLIENTS = 64
"""Each has its own connections: httpx looks through all of a client's for every request that waits."""
SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)
ANSWERED, LOST = 200, 0
REFUSED = frozenset({429, 503})
"""A stream's queue, or the server's, is full."""


@dataclass(frozen=True)
class Request:
    """A body to send again and again, and its headers."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        status: Of HTTP; 0 where the connection was lost.
        due: Seconds from the start until it was to be sent.
        late: Seconds by which it was sent after that.
        seconds: From when it was due until it was answered.
    """

    status: int
    due: float
    late: float
    seconds: float


@dataclass(frozen=True)
class Load:
    """What a rate brought: requests a second, shares of all requests, and milliseconds of those answered.

    Attributes:
        share: Of the capacity that was offered.
        offered, answered: Requests a second, these until the last answer.
        reached: Share of the capacity that was answered.
        refused: Share that was refused because a queue was full.
        failed: Share that was refused otherwise, or lost.
        median, p99, most: Latency.
        late: By how much 99 of 100 requests were sent late, at most.
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
    """Send a request that is due so many seconds after the beginning; say what became of it."""
    late = max(0.0, perf_counter() - began - due)
    try:
        response = await client.post(INFER, content=request.content, headers=dict(request.headers))
        status = response.status_code
    except httpx.TransportError:
        status = LOST
    return Answer(status, due, late, perf_counter() - began - due)


async def capacity(clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], seconds: float) -> float:
    """Return answers a second where each request is sent again as soon as it is answered.

    Raises:
        RuntimeError: If one is not answered as it should be.
    """
    began = perf_counter()

    async def again_and_again(client: httpx.AsyncClient, request: Request) -> int:
        answered = 0
        while perf_counter() < began + seconds:
            answer = await send(client, request, began, perf_counter() - began)
            if answer.status != ANSWERED:
                raise RuntimeError(f"a request was answered by {answer.status}")
            answered += 1
        return answered

    answered = sum(await asyncio.gather(*map(again_and_again, cycle(clients), requests)))
    return answered / (perf_counter() - began)


async def open_loop(
    clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], rate: float, seconds: float
) -> list[Answer]:
    """Send requests in turn at a rate for a time; return what became of them once all are answered."""
    tasks, began = [], perf_counter()
    for number in range(max(1, round(rate * seconds))):
        due = number / rate
        await asyncio.sleep(max(0.0, began + due - perf_counter()))
        client, request = clients[number % len(clients)], requests[number % len(requests)]
        tasks.append(asyncio.create_task(send(client, request, began, due)))
    return await asyncio.gather(*tasks)


def load_of(answers: Sequence[Answer], share: float, most: float, seconds: float) -> Load:
    """Sum up what a share of the capacity `most` brought in so many seconds; latency is nan if nothing was answered."""
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
    """Return medians over rounds, and the longest latency of all."""
    rounds = [asdict(load) for load in loads]
    figures = {name: median(each[name] for each in rounds) for name in rounds[0]}
    return Load(**{**figures, "most": max(load.most for load in loads)})


@dataclass(frozen=True)
class Plan:
    """Shares of the capacity, rounds of them, and seconds of each."""

    shares: Sequence[float]
    rounds: int
    seconds: float


async def measure(
    clients: Sequence[httpx.AsyncClient], requests: Sequence[Request], plan: Plan, advance: Callable[[str], None]
) -> tuple[float, list[Load]]:
    """Offer all shares in rounds; return the median capacity and a load for each share. Advance with what was found."""
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
    """Make streams, and measure with a batch (N, C, H, W) as every request."""
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
            made = {"id": each, "model": MODEL, "adapter": spec}
            (await clients[0].post("/v1/streams", json=made)).raise_for_status()
        requests = [Request(*body_of(batch, each)) for each in ids]
        return await measure(clients, requests, plan, advance)


def main(
    data: Annotated[
        Path, typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`.")
    ],
    share: Annotated[
        list[float], typer.Option(min=0.01, max=4, help="Rates, as shares of the capacity that is measured; repeat.")
    ] = list(SHARES),  # noqa: B006
    spec: Annotated[str, typer.Option(help="Spec of all streams.")] = "unmix_tns",
    streams: Annotated[int, typer.Option(min=1, help="Streams that the requests go to in turn.")] = 16,
    images: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 1,
    seconds: Annotated[
        float, typer.Option(min=0.1, help="Of each rate, and of each measurement of the capacity.")
    ] = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Of all rates, of which the median is shown.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime in the server.")] = 2,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Measure latency and refusals of a server whose requests arrive at constant rates, on the CIFAR ResNet-20.

    It takes (rounds x (rates + 1) + 1) x seconds, and some for the start.
    """
    batch = np.load(data / "brightness.npy")[:images].transpose(0, 3, 1, 2).astype(np.float32) / 255
    plan = Plan(share, rounds, seconds)
    with tempfile.TemporaryDirectory() as name, Progress(console=Console(stderr=True)) as progress:
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
    Console(width=120).print(as_table(loads, about))
    if json_file is not None:
        told = {**about, "capacity": most, "loads": [asdict(load) for load in loads]}
        json_file.write_text(json.dumps(told, indent=1) + "\n")


def as_table(loads: Sequence[Load], about: Mapping[str, str]) -> Table:
    """Lay the figures out."""
    caption = "\n".join(f"{name} {value}" for name, value in about.items())
    title = "Requests that do not wait for answers: a second, and milliseconds from when they were due"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    names = (
        "of capacity",
        "offered",
        "answered",
        "reached",
        "refused",
        "failed",
        "p50 ms",
        "p99 ms",
        "max ms",
        "late ms",
    )
    for name in names:
        table.add_column(name, justify="right")
    for load in loads:
        rates = (f"{load.share:g}", f"{load.offered:.1f}", f"{load.answered:.1f}", f"{load.reached:.2f}")
        lost = (f"{100 * load.refused:.1f} %", f"{100 * load.failed:.1f} %")
        times = (f"{each:.1f}" for each in (load.median, load.p99, load.most, load.late))
        table.add_row(*rates, *lost, *times, style="red" if load.failed else "")
    return table


if __name__ == "__main__":
    typer.run(main)
