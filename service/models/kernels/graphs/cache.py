"""The cache of ONNX graphs: each is made once, kept in a folder, and compared with its pipeline before it serves."""

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from torch import Tensor

from adapters.adapter import Adapter, Prepared
from adapters.joint_step import in_one_pass
from adapters.network.module_net import ModuleNet
from adapters.pipeline import Fit, Pipeline
from adapters.precision import FLOAT32
from service.errors import BundleError, UnfitError
from service.models.bundle import Bundle
from service.models.kernels.graphs import export
from service.models.kernels.graphs.step import (
    Compiled,
    CompiledPass,
    CompiledStep,
    Session,
    check,
    checked_streams,
    least_images,
)
from service.models.onnx.onnx_model import runs_as_shipped
from service.support.atomic_files import AS_UMASK, write_whole
from service.telemetry.logs import log

G = TypeVar("G")
MAKERS = ("torch", "onnx", "onnxscript")
"""The packages whose versions decide the graph."""
NOT_MADE = "no graph was made of it: list it in the setting `compiled_specs` to have it made at the next start"


@dataclass(frozen=True, slots=True)
class Graph:
    """A pipeline's open graph. The pipeline itself serves requests of fewer than `least_images` images."""

    step: Compiled
    least_images: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request for a graph: a pipeline fitted to a bundle's model, and sample inputs.

    Attributes:
        bundle: The model's bundle.
        adapter: The pipeline.
        prepared: The pipeline fitted to the model.
        sample: At least 40 inputs (N, *input_shape) to compare the graph with the pipeline.
    """

    bundle: Bundle
    adapter: Adapter
    prepared: Prepared[Any]
    sample: Tensor

    @property
    def answers_first(self) -> bool:
        """Whether the graph holds only the forward pass that answers."""
        return export.answers_first(self.adapter, self.prepared)

    @property
    def runs_as_shipped(self) -> bool:
        """Whether the bundle's own ONNX graph serves the pipeline."""
        return self.bundle.toml.model.kind == "onnx" and runs_as_shipped(self.adapter.spec)

    @property
    def facts(self) -> dict[str, str]:
        """The facts that identify the graph; its file stores them."""
        options = {name: asdict(options) for name, options in self.adapter.options.items()}
        return {
            **self._model,
            "adapter": str(self.adapter.spec),
            "options": json.dumps({"seed": self.adapter.seed, **options}, sort_keys=True),
            "part": "pass" if self.answers_first else "step",
        }

    @property
    def facts_of_streams(self) -> dict[str, str]:
        """The facts of the graph that runs several streams. Pipelines with the same normalizer share it."""
        name = self.adapter.spec.normalizer
        learned = "norm layers" if export.learned_by_stream(self.adapter, self.prepared) else "nothing"
        options = json.dumps(asdict(self.adapter.options[name]), sort_keys=True)
        return {**self._model, "adapter": name, "options": options, "part": "streams", "learned": learned}

    @property
    def _model(self) -> dict[str, str]:
        return {
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

    def get(self, wanted: Wanted, *, make: bool) -> Graph:
        """Return a pipeline's graph from the folder, or make it if `make` is True.

        Raises:
            UnfitError: If it has none. The message says why.
        """
        reason = why_not(wanted)
        if reason:
            raise UnfitError(reason)
        return self._get(
            wanted.facts, lambda session: _reopened(session, wanted),
            partial(made_anew, wanted, self._threads) if make else None,
        )  # fmt: skip

    def of_streams(self, wanted: Wanted, *, make: bool) -> ModuleNet | None:
        """Return the network for several streams of one image each, which runs a graph; None if there is no graph.

        The graph comes from the folder, or is made if `make` is True.
        """
        adapter, fit = wanted.adapter, wanted.prepared
        eligible = isinstance(adapter, Pipeline) and adapter.precision == FLOAT32 and not wanted.runs_as_shipped
        if not self._grouping or not eligible or not isinstance(fit, Fit) or not in_one_pass(adapter, fit):
            return None
        learned = export.learned_by_stream(adapter, fit)

        def open_graph(session: Session) -> ModuleNet:
            return checked_streams(session, fit.net, learned, wanted.sample)

        def make_graph() -> tuple[bytes, ModuleNet]:
            content = export.make_streams(fit.net, learned, wanted.sample, wanted.bundle.input.name)
            return export.with_facts(content, wanted.facts_of_streams), open_graph(Session(content, self._threads))

        try:
            return self._get(wanted.facts_of_streams, open_graph, make_graph if make else None)
        except (UnfitError, BundleError) as error:
            if make:
                log.warning("streams_graph_not_made", adapter=wanted.facts_of_streams["adapter"], reason=str(error))
            return None

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


def made_anew(wanted: Wanted, threads: int) -> tuple[bytes, Graph]:
    """Make a pipeline's graph and compare it with the pipeline. Return the ONNX file and the open graph.

    Raises:
        UnfitError: If the pipeline has no graph, or its graph is not exact. The message says why.
    """
    reason = why_not(wanted)
    if reason:
        raise UnfitError(reason)
    make = export.make_pass if wanted.answers_first else export.make_step
    content = make(wanted.adapter, wanted.prepared, wanted.sample, wanted.bundle.input.name)
    try:
        step = _compiled(Session(content, threads), wanted)
        least = least_images(step, wanted.adapter, wanted.prepared, wanted.sample)
    except BundleError as error:
        raise UnfitError(f"the graph of {wanted.adapter.spec} is not exact: {error}") from None
    return export.with_facts(content, {**wanted.facts, "least_images": str(least)}), Graph(step, least)


def _reopened(session: Session, wanted: Wanted) -> Graph:
    """Return a stored graph, after comparing one of its steps with the pipeline's."""
    least = int(session.facts.get("least_images", "0"))
    if least < 1:
        raise BundleError("it has no valid least_images")
    step = _compiled(session, wanted)
    check(step, wanted.adapter, wanted.prepared, wanted.sample[: max(least, 2)])
    return Graph(step, least)


def why_not(wanted: Wanted) -> str:
    """Return why a pipeline has no graph; "" if it has one."""
    if wanted.runs_as_shipped:
        return "the bundle is an ONNX graph already"
    return "" if wanted.answers_first else export.why_not(wanted.adapter)


def _compiled(session: Session, wanted: Wanted) -> Compiled:
    adapter, fit = wanted.adapter, wanted.prepared
    if wanted.answers_first and isinstance(adapter, Pipeline) and isinstance(fit, Fit):
        return CompiledPass(session, adapter, fit)
    return CompiledStep(session)


def _name(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([export.FORMAT, facts], sort_keys=True).encode()).hexdigest()[:32]
