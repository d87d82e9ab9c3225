"""`acclimate demo` sends drifting images to a frozen and an adapting stream, then shows snapshot, reset and restore."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.client import Answer, Client
from service.demo.drift import CLEAN, CLEAN_AGAIN, DOMAINS, Batch, drifting
from service.errors import SettingsError

MODEL, INPUT = "fashion", "input"
FROZEN, ADAPTING = "demo-frozen", "demo-adapting"
BAR = 12
"""Width of a bar of 100 %, in characters."""


@dataclass
class Tally:
    """The results of one stream in one domain."""

    images: int = 0
    wrong: int = 0
    entropies: list[float] = field(default_factory=list)
    drifts: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    @property
    def error(self) -> float:
        """Share of wrong answers, in percent."""
        return 100 * self.wrong / self.images


@dataclass(frozen=True, slots=True)
class Report:
    """The tour's result: mean errors over the corrupted domains in percent, and the effects of reset and restore."""

    frozen_error: float
    adapted_error: float
    source_difference: float
    restored_equal: bool

    @property
    def reduction(self) -> float:
        """The reduction of the error by adapting, relative to the frozen error, in percent."""
        return 100 * (1 - self.adapted_error / self.frozen_error)


@contextmanager
def own_server() -> Iterator[str]:
    """Run a server with the embedded model on a free loopback port, and stop it after the block.

    Raises:
        SettingsError: If the server does not start.
    """
    with tempfile.TemporaryDirectory(prefix="acclimate-demo-") as folder:
        command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", folder]
        # The tour never sends to both streams at once, so grouping their steps would bring nothing.
        environment = {**os.environ, "ACCLIMATE_GROUP_STREAMS": "1"}
        with subprocess.Popen(  # noqa: S603 - this interpreter, this package
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process:
            try:
                yield _announced_url(process)
            finally:
                process.terminate()
                process.wait(30)


def _announced_url(process: "subprocess.Popen[str]") -> str:
    for line in process.stdout or ():
        found = re.search(r"listens on (\S+)", line)
        if found:
            return found[1]
    raise SettingsError("the demo's server did not start; `acclimate serve` says why")


def tour(url: str, key: str | None, adapter: str | None, images: int, batch: int, severity: int) -> Report:
    """Run the whole tour against a server and print its results.

    Raises:
        RefusedError: If the server does not serve the embedded model, or refuses a call.
    """
    console = Console()
    with Client(url, key) as client:
        begin(client, adapter)
        tallies = send(client, console, images, batch, severity)
        console.print(table(tallies))
        report = undo(client, console, tallies)
        console.print(summary(report))
    return report


def begin(client: Client, adapter: str | None) -> None:
    """Create the frozen and the adapting stream; existing ones are deleted first."""
    existing = {stream.id for stream in client.streams()}
    for stream in sorted(existing & {FROZEN, ADAPTING}):
        client.delete(stream)
    client.create({"id": FROZEN, "model": MODEL, "adapter": "source", "mode": "frozen"})
    settings = {"adapter": adapter} if adapter else {}
    client.create({"id": ADAPTING, "model": MODEL, **settings})


def send(client: Client, console: Console, images: int, batch: int, severity: int) -> dict[tuple[str, str], Tally]:
    """Send every batch to both streams, and return the results by domain and stream."""
    tallies = {(domain, stream): Tally() for domain in DOMAINS for stream in (FROZEN, ADAPTING)}
    total = len(DOMAINS) * -(-images // batch)
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("batches", total=total)
        for part in drifting(images, batch, severity):
            progress.update(task, description=part.domain)
            for stream in (FROZEN, ADAPTING):
                _count(client, tallies[part.domain, stream], part, stream)
            progress.advance(task)
    return tallies


def _count(client: Client, tally: Tally, part: Batch, stream: str) -> None:
    began = time.perf_counter()
    answer = client.infer(MODEL, INPUT, part.images, stream)
    tally.milliseconds.append(1000 * (time.perf_counter() - began))
    tally.images += len(part.labels)
    tally.wrong += int((answer.outputs["labels"] != part.labels).sum())
    tally.entropies.append(float(answer.facts["tta_entropy"]))
    tally.drifts.append(float(answer.facts["tta_drift"]))


def table(tallies: dict[tuple[str, str], Tally]) -> Table:
    """Return the tour's table, with one row for each domain."""
    columns = ("domain", "frozen", "adapting", "", "entropy", "drift", "p50", "p99")
    result = Table(
        title="The same drifting stream to a frozen and an adapting stream",
        caption="error in %; entropy in nats, frozen > adapting; drift; latency of the adapting stream in ms",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(columns):
        result.add_column(name, justify="left" if number in (0, 3) else "right", no_wrap=True)
    for domain in DOMAINS:
        frozen, adapting = tallies[domain, FROZEN], tallies[domain, ADAPTING]
        result.add_row(
            domain,
            f"{frozen.error:.1f}",
            f"{adapting.error:.1f}",
            _bars(frozen.error, adapting.error),
            f"{np.mean(frozen.entropies):.2f} > {np.mean(adapting.entropies):.2f}",
            f"{np.mean(adapting.drifts):.2f}",
            f"{np.percentile(adapting.milliseconds, 50):.0f}",
            f"{np.percentile(adapting.milliseconds, 99):.0f}",
        )
    return result


def _bars(frozen: float, adapting: float) -> str:
    """Return a bar of the adapting error, followed by its difference from the frozen error: light green or red."""
    whole, part = round(BAR * frozen / 100), round(BAR * adapting / 100)
    difference = f"[green]{'░' * (whole - part)}[/]" if whole >= part else f"[red]{'█' * (part - whole)}[/]"
    return f"[blue]{'█' * min(whole, part)}[/]{difference}"


def undo(client: Client, console: Console, tallies: dict[tuple[str, str], Tally]) -> Report:
    """Snapshot, reset and restore the adapting stream, and print how the answers change."""
    x = next(drifting(64, 64, 1)).images
    client.change(ADAPTING, {"mode": "frozen"})
    snapshot = client.take(ADAPTING, {"name": "after-the-drift"})
    learned = _probabilities(client.infer(MODEL, INPUT, x, ADAPTING))
    console.print(f"snapshot {snapshot.id}: {snapshot.bytes:,} bytes, generation {snapshot.generation}")
    client.reset(ADAPTING)
    source = _probabilities(client.infer(MODEL, INPUT, x, FROZEN))
    difference = float(np.abs(_probabilities(client.infer(MODEL, INPUT, x, ADAPTING)) - source).max())
    moved = float(np.abs(learned - source).max())
    console.print(f"reset:    answers differ from the source model's by {difference:.1e} (before: {moved:.1e})")
    client.restore(ADAPTING, snapshot.id)
    equal = bool(np.array_equal(_probabilities(client.infer(MODEL, INPUT, x, ADAPTING)), learned))
    console.print(f"restore:  answers are {'bit-equal to' if equal else 'NOT those of'} the snapshot's")
    corrupted = [domain for domain in DOMAINS if domain not in (CLEAN, CLEAN_AGAIN)]
    frozen, adapted = (float(np.mean([tallies[d, stream].error for d in corrupted])) for stream in (FROZEN, ADAPTING))
    return Report(frozen, adapted, difference, equal)


def _probabilities(answer: Answer) -> npt.NDArray[np.float32]:
    return answer.outputs["probabilities"].astype(np.float32)


def summary(report: Report) -> str:
    """Return the tour's last line."""
    return (
        f"[bold]mean error over the corrupted domains: frozen {report.frozen_error:.1f} %, adapting "
        f"{report.adapted_error:.1f} %: {report.reduction:.0f} % lower[/]"
    )
