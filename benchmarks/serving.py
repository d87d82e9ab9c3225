"""The server's overhead on its steps: `python -m benchmarks.serving --help`.

A real server answers binary requests of one client over loopback, on the same cores. Between two rounds of requests,
the client's process runs the same steps in a bare loop while the server is idle. The round trip minus the server's time
for the step contains everything else: client, loopback, HTTP, decoding, queue and encoding.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
from rich.table import Table
from torch import Tensor

from benchmarks import report
from benchmarks.machine import machine
from benchmarks.monitoring import write_bundle
from benchmarks.report import Data, JsonFile, Specs
from benchmarks.server import Server, Setting, serving
from service.models.bundle import read_bundle
from service.models.hosted import Fitted, host
from service.models.kernels.graphs.cache import Graphs

FACTORY = "benchmarks.resnet20:ResNet20"
SPECS = ("source", "unmix_tns", "batch+tent")
COMPILED_SPECS = ("source", "unmix_tns")
MODEL = "resnet20"
INFER = f"/v2/models/{MODEL}/infer"
MOST_OUTSIDE = 1.5
"""Most milliseconds of a round trip outside the step and the client."""
LEAST_SHARE = 0.85
"""Least share of the bare loop's throughput that the server must reach with `source`."""
BOUNDS = f"bounds: outside at most {MOST_OUTSIDE:g} ms; with source at least {100 * LEAST_SHARE:.0f} % of the bare loop"
LENGTH = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Round:
    """Medians over requests in milliseconds.

    Attributes:
        trip: The round trip.
        step: The server's step with its monitors.
        client: The client's processor time.
        outside: The rest of the round trip.
        own: The server's own measurement of its time outside the step, from reading the body to the answer.
        bare: A bare step.
    """

    trip: float
    step: float
    client: float
    outside: float
    own: float
    bare: float


@dataclass(frozen=True)
class Served:
    """A spec's medians over rounds in milliseconds; the fields are those of `Round`."""

    spec: str
    backend: str
    trip: float
    step: float
    client: float
    outside: float
    own: float
    bare: float

    @property
    def share(self) -> float:
        """The server's throughput as a share of the bare loop's."""
        return self.bare / self.trip


@dataclass(frozen=True)
class Folders:
    """The folders of a server's bundle and data."""

    bundle: Path
    data: Path


def folders_of(folder: Path, weights: Path) -> Folders:
    """Write the CIFAR ResNet-20 as a bundle, and create a data folder for its server."""
    folders = Folders(folder / "bundle", folder / "data")
    folders.bundle.mkdir()
    folders.data.mkdir()
    write_bundle(folders.bundle, weights)
    return folders


def serving_resnet20(folders: Folders, threads: int, compiled: Sequence[str]) -> AbstractContextManager[Server]:
    """Run a server of the CIFAR ResNet-20 during the block, with the graphs of the specs in `compiled`."""
    settings: dict[str, Setting] = {
        "threads": threads,
        "allow_factories": [FACTORY],
        "durability": "ephemeral",
        "compiled_specs": compiled,
    }
    return serving(folders.data, settings, "--bundle", str(folders.bundle))


def body_of(x: np.ndarray[Any, Any], stream: str) -> tuple[bytes, dict[str, str]]:
    """Return the body of a binary V2 request for x (N, C, H, W), and its headers."""
    raw = np.ascontiguousarray(x, dtype=np.float32).tobytes()
    tensor = {"name": "input", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": len(raw)}}
    parameters = {"sequence_id": stream, "binary_data_output": True}
    header = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
    return header + raw, {LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}


def stream_of(fitted: Fitted) -> str:
    """Return the id of a pipeline's stream."""
    return fitted.spec.replace("+", ".")


def measure(client: httpx.Client, fitted: Fitted, images: Tensor, requests: int) -> Round:
    """Send a batch repeatedly, then take the same steps in a bare loop."""
    content, headers = body_of(images.numpy(), stream_of(fitted))
    trips, steps, spent, own = list[float](), list[float](), list[float](), list[float]()
    for _ in range(requests):
        before, used, began = _server_seconds(client), process_time(), perf_counter()
        client.post(INFER, content=content, headers=headers).raise_for_status()
        trips.append(perf_counter() - began)
        spent.append(process_time() - used)
        step, other = (after - then for after, then in zip(_server_seconds(client), before, strict=True))
        steps.append(step)
        own.append(other)
    state, bare = fitted.initial(), []
    for _ in range(requests):
        began = perf_counter()
        _, state = fitted.step(state, images)
        bare.append(perf_counter() - began)
    outside = [trip - step - used for trip, step, used in zip(trips, steps, spent, strict=True)]
    return Round(*(1e3 * median(each) for each in (trips, steps, spent, outside, own, bare)))


def _server_seconds(client: httpx.Client) -> tuple[float, float]:
    """Return the server's total seconds so far in steps and outside them, from its statistics."""
    statistics = client.get(f"/v2/models/{MODEL}/stats").json()["model_stats"][0]["inference_stats"]
    return float(statistics["compute_infer"]["ns"]) / 1e9, float(statistics["queue"]["ns"]) / 1e9


def main(
    data: Data,
    spec: Specs = list(SPECS),  # noqa: B006
    batch: Annotated[int, typer.Option(min=1, help="Images per request.")] = 64,
    requests: Annotated[int, typer.Option(min=1, help="Requests, and bare steps, per round.")] = 20,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the table shows medians.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime.")] = 2,
    json_file: JsonFile = None,
) -> None:
    """Compare requests to a server with a bare loop of the same steps, on the CIFAR ResNet-20."""
    torch.set_num_threads(threads)
    stored = torch.from_numpy(np.load(data / "brightness.npy")[:batch]).permute(0, 3, 1, 2)
    images = (stored / 255).contiguous()
    found: dict[str, list[Round]] = {each: [] for each in spec}
    with tempfile.TemporaryDirectory() as name, report.progress() as progress:
        folders = folders_of(Path(name), data / "resnet20.safetensors")
        task = progress.add_task("starting", total=len(spec) * (rounds + 1))
        with (
            serving_resnet20(folders, threads, COMPILED_SPECS) as server,
            httpx.Client(base_url=server.url, timeout=60) as client,
        ):
            model = host(read_bundle(folders.bundle), [FACTORY], threads, Graphs(folders.data / "graphs", threads))
            pipelines = {each: model.fit(each, {}) for each in spec}
            for each in spec:
                body = {"id": stream_of(pipelines[each]), "model": MODEL, "adapter": each}
                client.post("/v1/streams", json=body).raise_for_status()
            for number in range(rounds + 1):  # the first warms up
                for each in spec:
                    progress.update(task, description=each)
                    measured = measure(client, pipelines[each], images, requests)
                    found[each] += [measured] if number else []
                    progress.advance(task)
    results = [
        Served(each, pipelines[each].backend, *(median(getattr(one, name) for one in found[each]) for name in
               ("trip", "step", "client", "outside", "own", "bare")))
        for each in spec
    ]  # fmt: skip
    about = {"images per request": str(batch), "rounds": str(rounds), **machine(threads)}
    figures = {**about, "served": [asdict(result) for result in results]}
    report.write(as_table(results, about), width=120, figures=figures, json_file=json_file)


def as_table(results: list[Served], about: Mapping[str, str]) -> Table:
    """Return the figures as a table."""
    headings = (
        "spec", "backend", "round trip", "step and monitors", "client", "outside", "its own clock", "bare step",
        "of bare loop",
    )  # fmt: skip
    title = "Milliseconds per request, with the client on the same cores"
    table = report.new_table(title, headings, ("spec", "backend"), f"{BOUNDS}\n{report.lines_of(about)}")
    for each in results:
        figures = (each.trip, each.step, each.client, each.outside, each.own, each.bare)
        table.add_row(each.spec, each.backend, *(f"{figure:.2f}" for figure in figures), f"{100 * each.share:.0f} %")
    return table


if __name__ == "__main__":
    typer.run(main)
