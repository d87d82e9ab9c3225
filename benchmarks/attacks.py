"""Attacks on a server, and their costs: `python -m benchmarks.attacks --help`.

Each attack runs from this machine, without a key and for a bounded time, against a real server of the embedded bundle.
The table shows the additional memory of the server, and the longest time in which /v2/health/live was not answered to a
separate process that polls it. A server that has grown is replaced by a new one.
"""

import gzip
import io
import json
import multiprocessing
import resource
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, TypeAlias

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.machine import machine
from benchmarks.report import JsonFile
from benchmarks.server import Server, most_rss_of, rss_of, serving

MIB = 2**20
GROWN = 64 * MIB
DESCRIPTORS = 256
"""The server's limit of file descriptors."""
INFER = "/v2/models/fashion/infer"
JSON = "Content-Type: application/json\r\n"
Attack: TypeAlias = Callable[["Target"], None]


@dataclass(frozen=True)
class Target:
    """A server's port, and the end of the attack on the monotonic clock."""

    port: int
    until: float

    def connect(self) -> socket.socket:
        """Return a connection that times out at the end of the attack."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=max(0.1, self.until - monotonic()))

    def send(self, first: bytes, *pieces: bytes, times: int = 1) -> None:
        """Send `first`, then `pieces` `times` times, until the server refuses them or the time is over."""
        with suppress(OSError), self.connect() as connection:
            connection.sendall(first)
            for piece in (piece for _ in range(times) for piece in pieces):
                if monotonic() > self.until:
                    return
                connection.sendall(piece)
            connection.recv(4096)

    def post(self, path: str, body: bytes, headers: str = JSON) -> None:
        """Send a request with a body."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self.send(head.encode(), body)

    def together(self, count: int, call: Callable[[], None]) -> None:
        """Make `count` calls at the same time."""
        with ThreadPoolExecutor(count) as callers:
            for _ in range(count):
                callers.submit(call)


GET = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n".encode()


def head_of_one_line(target: Target) -> None:
    """Send 300 MiB of one header."""
    target.send(GET + b"x: ", b"a" * 2**16, times=300 * 16)


def head_of_long_lines(target: Target) -> None:
    """Send 300 MiB of headers of 64 kB each."""
    target.send(GET, b"x: " + b"a" * 65_000 + b"\r\n", times=300 * 16)


def head_of_tiny_lines(target: Target) -> None:
    """Send 5 million headers of 6 bytes."""
    target.send(GET, b"a: b\r\n" * 10_000, times=500)


def trailers_without_end(target: Target) -> None:
    """Send 100 MiB of trailers after a chunked body."""
    target.send(CHUNKED + b"1\r\n{\r\n0\r\n", b"x: " + b"a" * 65_000 + b"\r\n", times=100 * 16)


def chunks_of_one_byte(target: Target) -> None:
    """Send bodies of 2 million one-byte chunks on 8 connections."""
    target.together(8, lambda: target.send(CHUNKED, b"1\r\n \r\n" * 50_000, times=40))


def pipelined(target: Target) -> None:
    """Send 200,000 requests on one connection without waiting for answers."""
    target.send(GET + b"\r\n", (GET + b"\r\n") * 10_000, times=20)


def slow_heads(target: Target) -> None:
    """Hold 600 connections open with heads that arrive one byte at a time."""
    with ExitStack() as held:
        connections = [connection for _ in range(600) if (connection := _held(held, target)) is not None]
        for byte in GET[:12]:
            for connection in connections:
                with suppress(OSError):
                    connection.send(bytes([byte]))
            sleep(0.5)


def idle_connections(target: Target) -> None:
    """Open 2,000 silent connections, more than the server has file descriptors."""
    with ExitStack() as held:
        for _ in range(2000):
            _held(held, target)
        sleep(3)


def _held(held: ExitStack, target: Target) -> socket.socket | None:
    with suppress(OSError):
        return held.enter_context(socket.create_connection(("127.0.0.1", target.port), timeout=2))
    return None


def log_in_with(body: bytes) -> Attack:
    """Send a body to the log-in, which needs no key."""
    return lambda target: target.post("/v1/session", body)


def infer_with(body: bytes, headers: str = JSON, count: int = 1) -> Attack:
    """Send a body to inference, `count` times at once."""
    return lambda target: target.together(count, lambda: target.post(INFER, body, headers))


def lists(mebibytes: int) -> bytes:
    """Return JSON of empty arrays."""
    return b'{"key": [' + b"[]," * (mebibytes * MIB // 3) + b"[]]}"


def keys(mebibytes: int) -> bytes:
    """Return JSON of an object with many keys."""
    return b'{"key": "x", ' + b",".join(b'"k%d": 0' % number for number in range(mebibytes * MIB // 14)) + b"}"


def png(width: int, height: int) -> bytes:
    """Return a grey image as a small PNG file."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(file, "PNG")
    return file.getvalue()


def progressive(scans: int) -> bytes:
    """Return a JPEG of 16 megapixels whose last scan is repeated."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((4000, 3900), np.uint8)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rfind(b"\xff\xda") : -2]
    return content[:-2] + last * scans + content[-2:]


def texts(count: int, files: int) -> tuple[bytes, str]:
    """Return a form of images with `count` texts each; a text unpacks to one mebibyte."""
    image = png(64, 64)
    chunk = b"k\0\0" + zlib.compress(b"x" * (MIB - 100))
    text = len(chunk).to_bytes(4, "big") + b"zTXt" + chunk + zlib.crc32(b"zTXt" + chunk).to_bytes(4, "big")
    file = image[:33] + text * count + image[33:]
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + file + b"\r\n"
    return part * files + b"--b--\r\n", "Content-Type: multipart/form-data; boundary=b\r\n"


def empty_elements() -> tuple[bytes, str]:
    """Return a BYTES tensor of 15 million empty elements."""
    size = 60_000_000
    tensor = {"name": "x", "shape": [1, size], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    return header + bytes(size), f"Inference-Header-Content-Length: {len(header)}\r\n"


def attacks() -> Mapping[str, Attack]:
    """Return all attacks by name."""
    image = "Content-Type: image/png\r\n"
    return {
        "one header of 300 MiB": head_of_one_line,
        "headers of 64 kB, 300 MiB": head_of_long_lines,
        "5 million headers": head_of_tiny_lines,
        "trailers, 100 MiB": trailers_without_end,
        "chunks of one byte, 8 clients": chunks_of_one_byte,
        "200,000 pipelined requests": pipelined,
        "600 heads, a byte at a time": slow_heads,
        "2,000 connections, 256 descriptors": idle_connections,
        "log-in: 50 MiB of []": log_in_with(lists(50)),
        "log-in: 50 MiB of keys": log_in_with(keys(50)),
        "inference: 60 MiB of []": infer_with(lists(60)),
        "inference: 7 MiB of [], 8 clients": infer_with(lists(7), count=8),
        "inference: 7 MiB of keys": infer_with(keys(7)),
        "inference: gzip of 1 GiB": infer_with(gzip.compress(bytes(1024 * MIB)), f"{JSON}Content-Encoding: gzip\r\n"),
        "BYTES: 15 million empty elements": infer_with(*empty_elements()),
        "PNG of 16 megapixels, 20 clients": infer_with(png(4000, 3968), image, 20),
        "JPEG of 90 scans, 4 clients": infer_with(progressive(80), "Content-Type: image/jpeg\r\n", 4),
        "40 PNGs with texts of 60 MiB": infer_with(*texts(60, 40)),
    }


@dataclass(frozen=True)
class Harm:
    """The costs of an attack: peak of additional memory in bytes, longest health outage, and duration, in seconds."""

    memory: int
    pause: float
    seconds: float


def watch(port: int, ends: float, worst: "Synchronized[float]") -> None:
    """Poll health, and record the longest time without an answer. This runs in a separate process."""
    last_answer = monotonic()
    while monotonic() < ends:
        answered = _is_live(port)
        worst.value = max(worst.value, monotonic() - last_answer)
        if answered:
            sleep(0.01)
            last_answer = monotonic()


def _is_live(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        sleep(0.01)
        return False
    finally:
        connection.close()


def suffer(server: Server, attack: Attack, seconds: float) -> Harm:
    """Attack a server and return the costs."""
    port = int(server.url.rpartition(":")[2])
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # resets the peak of its memory
    context, before, began = multiprocessing.get_context("spawn"), rss_of(server.pid), monotonic()
    worst: Synchronized[float] = context.Value("d", 0.0)
    watching = context.Process(target=watch, args=(port, began + 4 * seconds, worst))
    watching.start()
    try:
        while not worst.value:
            sleep(0.01)
        worst.value, began = 0.0, monotonic()
        attack(Target(port, began + seconds))
        took = monotonic() - began
        sleep(1)
        while not _is_live(port) and monotonic() < began + 3 * seconds:
            sleep(0.1)
        return Harm(max(0, most_rss_of(server.pid) - before), worst.value, took)
    finally:
        watching.terminate()
        watching.join()


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Limit the file descriptors of processes that are started in the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))


def suffer_all(chosen: Mapping[str, Attack], seconds: float, threads: int, show: Callable[[str, Harm], None]) -> None:
    """Make all attacks. A server is used again as long as it has not grown by GROWN."""
    remaining = list(chosen)
    while remaining:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            with few_descriptors():
                server = stack.enter_context(serving(Path(folder), {"threads": threads, "compiled": "false"}))
            while not _is_live(int(server.url.rpartition(":")[2])):
                sleep(0.1)
            before = rss_of(server.pid)
            while remaining and rss_of(server.pid) - before < GROWN:
                name = remaining.pop(0)
                show(name, suffer(server, chosen[name], seconds))


def main(
    only: Annotated[list[str], typer.Option(help="Only attacks whose name contains this; repeat.")] = [],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=1, help="Longest duration of an attack.")] = 60,
    threads: Annotated[int, typer.Option(min=1, help="Threads of PyTorch and ONNX Runtime in the server.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Run all attacks against a server, and show their costs."""
    found: dict[str, Harm] = {}

    def show(name: str, harm: Harm) -> None:
        found[name] = harm
        Console(stderr=True).print(
            f"{name}: {harm.memory / MIB:.0f} MiB, {harm.pause:.2f} s, took {harm.seconds:.1f} s"
        )

    chosen = {name: attack for name, attack in attacks().items() if not only or any(part in name for part in only)}
    suffer_all(chosen, seconds, threads, show)
    figures = {name: asdict(harm) for name, harm in found.items()}
    report.write(as_table(found, machine(threads)), width=110, figures=figures, json_file=json_file)


def as_table(found: Mapping[str, Harm], about: Mapping[str, str]) -> Table:
    """Return the figures as a table."""
    headings = ("attack", "memory MiB", "longest pause s", "took s")
    table = report.new_table("What attacks cost a server", headings, ("attack",), report.lines_of(about))
    for name, harm in found.items():
        table.add_row(name, f"{harm.memory / MIB:.0f}", f"{harm.pause:.2f}", f"{harm.seconds:.1f}")
    return table


if __name__ == "__main__":
    typer.run(main)
