"""The graphs of a model's pipelines: made once, kept in a folder, compared with their pipelines before they serve."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from adapters.adapter import Adapter, Prepared
from adapters.pipeline import Fit, Pipeline
from service.backends import graph
from service.backends.compiled import Compiled, CompiledPass, CompiledStep, Session, check, least_images
from service.backends.onnx import runs_as_shipped
from service.bundles import Bundle
from service.errors import BundleError, UnfitError
from service.files import AS_UMASK, write_whole
from service.telemetry import log

MAKERS = ("torch", "onnx", "onnxscript")
"""What has a say in the graph that is made."""
NOT_MADE = "no graph was made of it: list it in the setting `compiled_specs` to have it made at the next start"


@dataclass(frozen=True, slots=True)
class Graph:
    """A pipeline's graph, open; requests of fewer images than `least_images` are the pipeline's own."""

    step: Compiled
    least_images: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pipeline fitted to a bundle's model, and `sample` inputs (N, *input_shape), 40 or more, to try it on."""

    bundle: Bundle
    adapter: Adapter
    prepared: Prepared[Any]
    sample: Tensor

    @property
    def answers_first(self) -> bool:
        """Whether the graph is of the pass that answers alone."""
        return graph.answers_first(self.adapter, self.prepared)

    @property
    def facts(self) -> dict[str, str]:
        """What the graph is of, as it is kept with it."""
        options = {name: asdict(options) for name, options in self.adapter.options.items()}
        return {
            "model": self.bundle.name,
            "version": self.bundle.toml.version,
            "fingerprint": self.bundle.fingerprint,
            "adapter": str(self.adapter.spec),
            "options": json.dumps({"seed": self.adapter.seed, **options}, sort_keys=True),
            "part": "pass" if self.answers_first else "step",
            "made_by": ", ".join(f"{name} {version(name)}" for name in MAKERS),
        }


class Graphs:
    """A folder of graphs.

    Args:
        folder: Made when the first one is written.
        threads: Of ONNX Runtime.
        specs: The pipelines, by canonical spec, whose graph is made where there is none.
    """

    def __init__(self, folder: Path, threads: int, specs: Collection[str] = ()) -> None:
        self.specs = tuple(specs)
        self._folder = folder
        self._threads = threads

    def get(self, wanted: Wanted, *, make: bool) -> Graph:
        """Return a pipeline's graph: the one that is kept, or a new one where that is allowed.

        Raises:
            UnfitError: If it has none; the message says why.
        """
        reason = why_not(wanted)
        if reason:
            raise UnfitError(reason)
        file = self._folder / f"{_name(wanted.facts)}.onnx"
        kept = self._kept(file, wanted)
        if kept is not None:
            return kept
        if not make:
            raise UnfitError(NOT_MADE)
        began = perf_counter()
        content, made = made_anew(wanted, self._threads)
        facts = {"model": wanted.bundle.name, "adapter": str(wanted.adapter.spec), "file": str(file)}
        log.info("graph_made", **facts, seconds=round(perf_counter() - began, 1))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, content, AS_UMASK, lambda _: None)
        except OSError as error:
            log.warning("graph_not_kept", file=str(file), reason=str(error))
        return made

    def _kept(self, file: Path, wanted: Wanted) -> Graph | None:
        """Return the graph in a file, or None if there is none, or it is not what it should be."""
        if not file.is_file():
            return None
        try:
            session = Session(file.read_bytes(), self._threads)
            least = int(session.facts.get("least_images", "0"))
            if least < 1 or {name: session.facts.get(name) for name in wanted.facts} != wanted.facts:
                raise BundleError("it is of something else")
            step = _compiled(session, wanted)
            check(step, wanted.adapter, wanted.prepared, wanted.sample[: max(least, 2)])
        except (BundleError, ValueError, OSError) as error:
            log.warning("graph_refused", file=str(file), reason=str(error))
            return None
        return Graph(step, least)


def made_anew(wanted: Wanted, threads: int) -> tuple[bytes, Graph]:
    """Make a pipeline's graph and compare it with the pipeline; return the ONNX file and the graph, open.

    Raises:
        UnfitError: If it has none; the message says why.
    """
    reason = why_not(wanted)
    if reason:
        raise UnfitError(reason)
    make = graph.make_pass if wanted.answers_first else graph.make_step
    content = make(wanted.adapter, wanted.prepared, wanted.sample, wanted.bundle.input.name)
    try:
        step = _compiled(Session(content, threads), wanted)
        least = least_images(step, wanted.adapter, wanted.prepared, wanted.sample)
    except BundleError as error:
        raise UnfitError(f"the graph of {wanted.adapter.spec} is not exact: {error}") from None
    return graph.with_facts(content, {**wanted.facts, "least_images": str(least)}), Graph(step, least)


def why_not(wanted: Wanted) -> str:
    """Tell why a pipeline has no graph; "" if it has one."""
    if wanted.bundle.toml.model.kind == "onnx" and runs_as_shipped(wanted.adapter.spec):
        return "the bundle is an ONNX graph already"
    return "" if wanted.answers_first else graph.why_not(wanted.adapter)


def _compiled(session: Session, wanted: Wanted) -> Compiled:
    adapter, fit = wanted.adapter, wanted.prepared
    if wanted.answers_first and isinstance(adapter, Pipeline) and isinstance(fit, Fit):
        return CompiledPass(session, adapter, fit)
    return CompiledStep(session)


def _name(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([graph.FORMAT, facts], sort_keys=True).encode()).hexdigest()[:32]
