"""How often the server suspects harm, how often rightly, and how late: `python -m benchmarks.false_alarms --help`.

Streams with labels go through the server's path of one request (monitors, guard, the source model's looks, the probe
set), and every answer is set beside the frozen model's to the same images. A window is the latest requests: 16, and as
many as hold 64 images.

An alarm is a request at which harm is suspected, or found by the guard, for the first time in a window. It is false if
the stream erred no more than the frozen model in the window that ends there. A stream is harmed while, of a window's
images, it errs on 20 % more than the frozen model. Harm that lasts for a window is found if harm is suspected between
its first and its last request; else it is missed.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor

from adapters import SourceImages
from benchmarks import report
from benchmarks.alarm_streams import STREAMS, Sent, made
from benchmarks.monitoring import artefacts_of, hosted
from benchmarks.resnet20 import load_source_model, read_source_images, with_artefacts
from service.models.bundle import read_bundle
from service.models.hosted import HostedModel, host
from service.monitoring.guard import GUARDED
from service.offline.evaluation.data import CLEAN, Domains
from service.offline.evaluation.layouts import CIFAR10C, Wanted, read_data
from service.offline.evaluation.pipelines import read_pipeline
from service.settings import EMBEDDED
from service.streams import engine
from service.streams.good_states import GoodState
from service.streams.value import Config, ProbeResult, StreamValue, first_value
from service.types import InputSpec

SPECS = ("source", "ema", "unmix_tns", "batch+tent", "unmix_tns+eata")
BATCHES = (1, 16, 64)
REQUESTS = {1: 320, 16: 120, 64: 48}
"""Requests of a stream by images a request. With them the whole run takes about seven minutes of one core."""
OTHERWISE = 120
"""Requests of a stream of another batch size."""
WINDOW, WINDOW_IMAGES = 16, 64
"""Requests, and images, that a window holds at least."""
HARMFUL = 0.2
"""Images of a window that a harmed stream errs on beyond the frozen model, as a share."""
PROBE_CHUNKS = 3
"""Batches of 64 of the probe set that are answered at a probe."""
ARTEFACT_IMAGES = 512
"""Source images for the learners' artefacts."""


@dataclass(frozen=True)
class Moment:
    """One request: wrong answers of the stream and of the frozen model, why harm is suspected, what the guard did.

    Attributes:
        wrong, frozen: Images that are answered wrongly.
        cause: A word; "" where nothing is suspected.
        acted: Whether the guard went back.
        looked: Whether the source model looked.
    """

    wrong: int
    frozen: int
    cause: str
    acted: bool
    looked: bool


@dataclass(frozen=True)
class Alarm:
    """A suspicion that begins: at which request, why, and by how many of the window's images the stream erred more."""

    request: int
    cause: str
    excess: int

    @property
    def false(self) -> bool:
        """Whether the stream erred no more than the frozen model."""
        return self.excess <= 0


@dataclass(frozen=True)
class Harm:
    """A time in which a stream is worse than the frozen model; of requests, the last one included.

    Attributes:
        first: First request of the first window that shows it.
        shown: Last request of that window.
        last: Last request of the last one.
        found: Request of the first alarm in it, or None.
    """

    first: int
    shown: int
    last: int
    found: int | None


@dataclass(frozen=True)
class Counted:
    """What was counted of one stream.

    Attributes:
        data, stream, spec: Names.
        batch: Images a request.
        requests, looks, roll_backs: Numbers.
        error, frozen_error: Wrong answers of the stream and of the frozen model, %.
        alarms: All of them.
        harms: Those that lasted for a window.
    """

    data: str
    stream: str
    spec: str
    batch: int
    requests: int
    looks: int
    roll_backs: int
    error: float
    frozen_error: float
    alarms: tuple[Alarm, ...]
    harms: tuple[Harm, ...]


def window_of(batch: int) -> int:
    """Return how many requests of so many images a window holds."""
    return max(WINDOW, -(-WINDOW_IMAGES // batch))


def serve(model: HostedModel, spec: str, sent: Sent, every: int, probe_every: int) -> list[Moment]:
    """Serve a stream as the server does under its default policy; return what was seen of each request."""
    value = first_value(Config(model, model.fit(spec, {})))
    moments = []
    for x, labels, frozen in zip(sent.x, sent.labels, sent.frozen_wrong, strict=True):
        served = engine.serve(value, x, wants_source=False, source_check_every=every)
        value = served.value
        wrong = int((served.output.probabilities.argmax(1) != labels).sum())
        findings, acted = served.findings, served.action in GUARDED and served.decision.rule in ("harm", "collapse")
        cause = _cause(findings.harm, findings.collapse) or value.readings.suspicion.cause
        moments.append(Moment(wrong, int(frozen.sum()), cause, acted, findings.looked))
        probe = value.readings.probe
        if probe_every and abs(value.steps - (probe.steps if probe else 0)) >= probe_every:
            value = _probed(value)
    return moments


def _cause(harm: str, collapse: str) -> str:
    if harm:
        return "contradiction" if "contradicts" in harm else "own domain"
    return "collapse" if collapse else ""


def _probed(value: StreamValue) -> StreamValue:
    """Measure the state on some of the probe set, and keep it as a good one if it does well there."""
    probe, known = value.config.model.reference.probe, value.config.model.reference.calibration
    if probe is None or known is None:
        return value
    parts = [probe.chunk(number) for number in range(min(PROBE_CHUNKS, probe.chunks))]
    state, fitted = value.state.adapter, value.config.fitted
    with torch.no_grad():
        right = torch.cat([fitted.probe(state, x).probabilities.argmax(1) == labels for x, labels in parts])
    accuracy = float(right.float().mean())
    gap = float(known.accuracy) - accuracy
    result = ProbeResult(accuracy, 0.0, gap, value.generation, value.steps, 0.0)
    value = replace(value, readings=replace(value.readings, probe=result))
    if gap > value.config.policy.budget:
        return value
    good = GoodState(state, value.steps, value.generation, accuracy)
    return replace(value, good=value.good.with_newest(good))


def alarms_of(moments: Sequence[Moment], window: int) -> tuple[Alarm, ...]:
    """Return the requests at which harm is suspected for the first time in a window."""
    found, quiet = [], window
    for number, moment in enumerate(moments):
        if moment.cause and quiet >= window:
            part = moments[max(0, number + 1 - window) : number + 1]
            found.append(Alarm(number, moment.cause, sum(each.wrong - each.frozen for each in part)))
        quiet = 0 if moment.cause else quiet + 1
    return tuple(found)


def harms_of(moments: Sequence[Moment], batch: int, window: int) -> tuple[Harm, ...]:
    """Return when the stream was harmed for at least a window; times less than a window apart are one."""
    excess = torch.tensor([float(each.wrong - each.frozen) for each in moments])
    shares = excess.unfold(0, window, 1).sum(1) / (window * batch) if len(moments) >= window else excess[:0]
    ends = [number + window - 1 for number in torch.nonzero(shares >= HARMFUL).flatten().tolist()]
    spans: list[tuple[int, int]] = []
    for end in ends:
        joins = bool(spans) and end - spans[-1][1] < window
        spans[-1:] = [(spans[-1][0], end)] if joins else [*spans[-1:], (end, end)]
    return tuple(_harm(moments, shown + 1 - window, shown, last) for shown, last in spans if last - shown + 1 >= window)


def _harm(moments: Sequence[Moment], first: int, shown: int, last: int) -> Harm:
    found = next((number for number in range(first, last + 1) if moments[number].cause), None)
    return Harm(first, shown, last, found)


def counted(data: str, stream: str, spec: str, batch: int, moments: Sequence[Moment]) -> Counted:
    """Count what was seen of one stream."""
    window, images = window_of(batch), len(moments) * batch
    return Counted(
        data, stream, spec, batch, len(moments),
        looks=sum(each.looked for each in moments),
        roll_backs=sum(each.acted for each in moments),
        error=100 * sum(each.wrong for each in moments) / images,
        frozen_error=100 * sum(each.frozen for each in moments) / images,
        alarms=alarms_of(moments, window),
        harms=harms_of(moments, batch, window),
    )  # fmt: skip


def embedded() -> tuple[HostedModel, Domains]:
    """Return the embedded model and its images: clean, and every corruption."""
    model = host(read_bundle(EMBEDDED), ["service.demo.network:build"], 1)
    return model, read_data(None, model.bundle.input, tuple(model.bundle.classes), Wanted())


def resnet20(data: Path, specs: Sequence[str]) -> tuple[HostedModel, Domains]:
    """Return the ResNet-20 of a folder with the artefacts of some specs, and the folder's images: clean ones first."""
    source, images = load_source_model(data / "resnet20.safetensors"), read_source_images(data)
    if images is not None:
        few = SourceImages(images.images[:ARTEFACT_IMAGES], images.labels[:ARTEFACT_IMAGES])
        for spec in specs:
            source = with_artefacts(source, read_pipeline(spec), few)
    artefacts: dict[str, Tensor] = {**source.artefacts, **artefacts_of(data)}
    model = hosted(data / "resnet20.safetensors", artefacts)
    names = tuple(name for name in (CLEAN, *CIFAR10C) if (data / f"{name}.npy").exists())
    takes = InputSpec("images", (3, 32, 32))
    return model, read_data(data, takes, tuple(model.bundle.classes), Wanted(domains=names))


def as_table(found: Sequence[Counted]) -> Table:
    """Lay the counts out: a row for each stream and batch size, a column for each spec."""
    specs = list(dict.fromkeys(each.spec for each in found))
    title = "False alarms / alarms, then harms found / harms (median delay)"
    headings = ("data", "stream", "images", "requests", *specs)
    table = report.new_table(title, headings, ("data", "stream", *specs), _summary(found))
    cells = {(each.data, each.stream, each.batch, each.spec): each for each in found}
    for data, stream, batch in dict.fromkeys((each.data, each.stream, each.batch) for each in found):
        mine = [cells[data, stream, batch, spec] for spec in specs]
        table.add_row(data, stream, str(batch), str(mine[0].requests), *map(_cell, mine))
    return table


def _cell(each: Counted) -> str:
    told = f"{sum(alarm.false for alarm in each.alarms)}/{len(each.alarms)}" if each.alarms else "-"
    if not each.harms:
        return told
    delays = [harm.found - harm.first for harm in each.harms if harm.found is not None]
    late = f" ({median(delays):.0f})" if delays else ""
    return f"{told}, {len(delays)}/{len(each.harms)}{late}"


def _summary(found: Sequence[Counted]) -> str:
    requests, looks = sum(each.requests for each in found), sum(each.looks for each in found)
    alarms = [alarm for each in found for alarm in each.alarms]
    harms = [harm for each in found for harm in each.harms]
    delays = sorted(harm.found - harm.first for harm in harms if harm.found is not None)
    late = f", {median(delays):.0f} requests late in the median, {delays[-1]} at most" if delays else ""
    false = sum(alarm.false for alarm in alarms)
    return (
        f"{requests:,} requests, {looks:,} looks; {false} false of {len(alarms)} alarms; "
        f"{len(delays)} of {len(harms)} harms found{late}"
    )


def main(
    data: Annotated[
        Path | None,
        typer.Option(envvar="ACCLIMATE_CIFAR10C", exists=True, help="Folder of `benchmarks.cifar10c`; else left out."),
    ] = None,
    demo: Annotated[bool, typer.Option(help="Also the embedded model on its own corruptions.")] = True,
    spec: Annotated[list[str], typer.Option(help="Specs; repeat.")] = list(SPECS),  # noqa: B006
    batch: Annotated[list[int], typer.Option(min=1, help="Images a request; repeat.")] = list(BATCHES),  # noqa: B006
    stream: Annotated[list[str], typer.Option(help="Kinds of streams; repeat.")] = list(STREAMS),  # noqa: B006
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests a stream [default: by images a request].", show_default=False)
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Requests between two looks of the source model.")] = 20,
    probe_every: Annotated[int, typer.Option(min=0, help="Steps between two probes; 0: none.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of images.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write every alarm and harm here.")] = None,
) -> None:
    """Count how often harm is suspected, how often falsely, and what harm is found how late."""
    unknown = [name for name in stream if name not in STREAMS]
    if unknown:
        raise typer.BadParameter(f"no stream {unknown[0]!r}; there are: {', '.join(STREAMS)}", param_hint="--stream")
    torch.set_num_threads(1)
    sources = {"embedded": embedded()} if demo else {}
    if data is not None:
        sources["cifar10c"] = resnet20(data, spec)
    found: list[Counted] = []
    with report.progress() as progress:
        task = progress.add_task("streams", total=len(sources) * len(batch) * len(stream) * len(spec))
        for name, (model, domains) in sources.items():
            for size in batch:
                length = requests or REQUESTS.get(size, OTHERWISE)
                for kind in stream:
                    sent = made(model, domains, kind, length, size, seed)
                    for each in spec:
                        moments = serve(model, each, sent, every, probe_every)
                        found.append(counted(name, kind, each, size, moments))
                        progress.advance(task)
    figures = [_with_verdicts(each) for each in found]
    report.write(as_table(found), width=150, figures=figures, json_file=json_file)


def _with_verdicts(each: Counted) -> dict[str, object]:
    alarms = [{**asdict(alarm), "false": alarm.false} for alarm in each.alarms]
    return {**asdict(each), "alarms": alarms}


if __name__ == "__main__":
    typer.run(main)
