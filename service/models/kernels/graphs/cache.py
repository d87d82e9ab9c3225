"""The cache of ONNX graphs: each is made once, kept in a folder, and compared with its pipeline before it serves."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from torch import Tensor

from adapters.network.module_net import ModuleNet
from adapters.network.reference_statistics import REFERENCE
from adapters.source import artefact
from service.errors import BundleError, UnfitError
from service.models.artefacts import reference_digest
from service.models.bundle import Bundle
from service.models.kernels.capabilities import answers_by_graph
from service.models.kernels.graphs import export
from service.models.kernels.graphs.step import (
    TRIED,
    CompiledPass,
    CompiledStep,
    GraphKernel,
    Session,
    observe,
    verify_at,
    verify_streams,
)
from service.models.kernels.kernel import JointSteps, KernelStatus, OwnSteps
from service.models.kernels.verify import measure, refused, too_slow
from service.support.atomic_files import AS_UMASK, write_whole
from service.telemetry.logs import log

G = TypeVar("G")
MAKERS = ("torch", "onnx", "onnxscript")
"""The packages whose versions decide the graph."""
TIMED = 8
"""Images in the request that a new graph is timed on, or as many as it needs."""
NOT_MADE = "no graph was made of it: list it in the setting `compiled_specs` to have it made at the next start"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a graph: a pipeline fitted to a bundle's model, and sample inputs.

    Attributes:
        bundle: The model's bundle.
        own: The pipeline's own steps.
        sample: At least 40 inputs (N, *input_shape) to compare the graph with the pipeline.
    """

    bundle: Bundle
    own: OwnSteps
    sample: Tensor

    @property
    def facts(self) -> dict[str, str]:
        """The facts that identify the graph; its file stores them."""
        options = {name: asdict(options) for name, options in self.own.pipeline.options.items()}
        return {
            **self._model,
            "adapter": str(self.own.pipeline.spec),
            "options": json.dumps({"seed": self.own.pipeline.seed, **options}, sort_keys=True),
            "part": "pass" if answers_by_graph(self.own) else "step",
        }

    @property
    def facts_of_streams(self) -> dict[str, str]:
        """The facts of the graph that runs several streams. Pipelines with the same normalizer share it."""
        name = self.own.pipeline.spec.normalizer
        learned = "norm layers" if export.learned_by_stream(self.own) else "nothing"
        options = json.dumps(asdict(self.own.pipeline.options[name]), sort_keys=True)
        return {**self._model, "adapter": name, "options": options, "part": "streams", "learned": learned}

    @property
    def _model(self) -> dict[str, str]:
        reference = reference_digest(artefact(self.bundle.artefacts, REFERENCE))
        return {
            **({"reference": reference} if reference else {}),  # graphs from before the artefact existed stay valid
            "model": self.bundle.name,
            "version": self.bundle.toml.version,
            "fingerprint": self.bundle.fingerprint,
            "made_by": ", ".join(f"{name} {version(name)}" for name in MAKERS),
        }


class Graphs:
    """A folder of graphs.

    Args:
        folder: The folder, created for the first graph.
        threads: ONNX Runtime's number of threads.
        specs: Canonical specs of the pipelines whose missing graphs are made at start.
        grouping: Whether to make graphs that run several streams.
    """

    def __init__(self, folder: Path, threads: int, specs: Collection[str] = (), *, grouping: bool = True) -> None:
        self.specs = tuple(specs)
        self._folder = folder
        self._threads = threads
        self._grouping = grouping

    def get(self, wanted: Wanted, *, make: bool) -> KernelStatus:
        """Return a pipeline's graph from the folder, or make it if `make` is True; the reason if there is none."""
        try:
            return self._get(wanted.facts, partial(_reopened, wanted), partial(self._made, wanted) if make else None)
        except UnfitError as error:
            return KernelStatus(str(error))

    def of_streams(self, wanted: Wanted, *, make: bool) -> ModuleNet | None:
        """Return the network for several streams of one image each, which runs a graph; None if there is no graph.

        The graph comes from the folder, or is made if `make` is True.
        """
        if not self._grouping:
            return None
        try:
            make_graph = partial(self._made_streams, wanted) if make else None
            return self._get(wanted.facts_of_streams, partial(_opened_streams, wanted), make_graph)
        except (UnfitError, BundleError) as error:
            if make:
                log.warning("streams_graph_not_made", adapter=wanted.facts_of_streams["adapter"], reason=str(error))
            return None

    def _made(self, wanted: Wanted) -> tuple[bytes, KernelStatus]:
        """Make a pipeline's graph and time it."""
        made, own = made_anew(wanted, self._threads), wanted.own
        timed = [wanted.sample[: max(made.least_images, TIMED)]]
        status = measure(made.kernel, own, own.fit.initial, timed)
        facts = {**made.facts_of(wanted), "times": str(status.times)}
        return export.with_facts(made.content, facts), replace(status, least=made.least_images if status.kernel else 0)

    def _made_streams(self, wanted: Wanted) -> tuple[bytes, ModuleNet]:
        content = export.make_streams(wanted.own, wanted.sample, wanted.bundle.input.name)
        net = _opened_streams(wanted, Session(content, self._threads))
        return export.with_facts(content, wanted.facts_of_streams), net

    def _get(
        self, facts: Mapping[str, str], open_graph: Callable[[Session], G], make: Callable[[], tuple[bytes, G]] | None
    ) -> G:
        """Open the stored graph with these facts; without one, call `make` and store its graph.

        Raises:
            UnfitError: If there is no graph and `make` is None, or the graph cannot be made.
        """
        file = self._folder / f"{_name(facts)}.onnx"
        stored = self._stored(file, facts, open_graph)
        if stored is not None:
            return stored
        if make is None:
            raise UnfitError(NOT_MADE)
        began = perf_counter()
        fields = {name: facts[name] for name in ("model", "adapter", "part")}
        log.info("making_graph", **fields)
        content, graph = make()
        log.info("graph_made", **fields, file=str(file), seconds=round(perf_counter() - began, 1))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, content, AS_UMASK, lambda _: None)
        except OSError as error:
            log.warning("graph_not_kept", file=str(file), reason=str(error))
        return graph

    def _stored(self, file: Path, facts: Mapping[str, str], open_graph: Callable[[Session], G]) -> G | None:
        """Open the graph in a file; None if there is no file, or it is damaged or holds another graph."""
        if not file.is_file():
            return None
        try:
            session = Session(file.read_bytes(), self._threads)
            if {name: session.facts.get(name) for name in facts} != facts:
                raise BundleError("it is the graph of another pipeline, model or version")
            return open_graph(session)
        except (BundleError, ValueError, OSError) as error:
            log.warning("graph_refused", file=str(file), reason=str(error))
            return None


@dataclass(frozen=True, slots=True)
class Made:
    """A verified graph.

    Attributes:
        content: The ONNX file, without facts.
        kernel: Takes the pipeline's steps with the graph.
        least_images: The fewest images at which, as at all larger tried numbers, its steps are the pipeline's.
    """

    content: bytes
    kernel: GraphKernel
    least_images: int

    def facts_of(self, wanted: Wanted) -> dict[str, str]:
        """Return the facts to store in the file."""
        return {**wanted.facts, "least_images": str(self.least_images)}


def made_anew(wanted: Wanted, threads: int) -> Made:
    """Make a pipeline's graph and compare it with the pipeline.

    Raises:
        UnfitError: If it cannot be exported, or differs from the pipeline. The message says why.
    """
    make = export.make_pass if answers_by_graph(wanted.own) else export.make_step
    content = make(wanted.own, wanted.sample, wanted.bundle.input.name)
    kernel = kernel_of(Session(content, threads), wanted.own)
    least, reason = 0, ""
    for images in TRIED:
        reason = verify_at(kernel, wanted.own, wanted.sample, images)
        if reason:
            break
        least = images
    if not least:
        raise UnfitError(refused(kernel, reason).reason)
    return Made(content, kernel, least)


def kernel_of(session: Session, own: OwnSteps) -> GraphKernel:
    """Return the kernel that takes a pipeline's steps with its graph."""
    return CompiledPass(session, own) if answers_by_graph(own) else CompiledStep(session)


def _reopened(wanted: Wanted, session: Session) -> KernelStatus:
    """Return a stored graph, after comparing some of its steps with the pipeline's. It is not timed again.

    A stream's backend must be the same after a restart, so that it repeats its steps bit for bit.

    Raises:
        BundleError: If the graph is not the pipeline's.
    """
    least, times = int(session.facts.get("least_images", "0")), float(session.facts.get("times", "0"))
    if least < 1:
        raise BundleError("it has no valid least_images")
    kernel = kernel_of(session, wanted.own)
    reason = verify_at(kernel, wanted.own, wanted.sample, max(least, 2))
    if reason:
        raise BundleError(reason)
    return too_slow(kernel, times) if 0 < times < kernel.kind.worth else KernelStatus("", kernel, least, times)


def _opened_streams(wanted: Wanted, session: Session) -> ModuleNet:
    """Return the network that runs a graph for several streams, after comparing it with PyTorch.

    Raises:
        BundleError: If they differ.
    """
    net = wanted.own.fit.net.of_streams(1).run_by(partial(observe, session))
    reason = verify_streams(JointSteps(wanted.own, net), wanted.sample)
    if reason:
        raise BundleError(f"the graph for several streams is not used: {reason}")
    return net


def _name(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([export.FORMAT, facts], sort_keys=True).encode()).hexdigest()[:32]
