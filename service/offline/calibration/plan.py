"""Plans a calibration: one piece of work for each artefact, with the record that its file will hold."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from torch import Tensor

from adapters import Pipeline, SourceModel, create, pipeline
from adapters.base import Learner
from adapters.registry import parts, pipelines_of
from adapters.source import artefact_file
from service.errors import UnfitError
from service.models.artefacts import Record
from service.models.bundle import Bundle
from service.offline.calibration.choice import Chosen, digest
from service.offline.calibration.measures import Measure, entropy, features

PROBE = "probe"
MEASURES: Mapping[str, Measure] = {"features": features, "entropy": entropy}


@dataclass(frozen=True)
class Wanted:
    """The settings of a calibration.

    Attributes:
        learners: The learners whose artefacts are made; () for all.
        normalizers: The normalizers that they are made under; () for each learner's usual ones.
        batch: Images per batch.
    """

    learners: tuple[str, ...] = ()
    normalizers: tuple[str, ...] = ()
    batch: int = 64


@dataclass(frozen=True)
class Work:
    """One artefact to make.

    Attributes:
        name: The name of its file, without the suffix.
        record: The record that its file will hold.
        make: Returns the tensors. It reports progress to a callback, as shares that add up to 1.
    """

    name: str
    record: Record
    make: Callable[[Callable[[float], None]], Mapping[str, Tensor]]


def planned(bundle: Bundle, source: SourceModel, chosen: Chosen, wanted: Wanted) -> list[Work]:
    """List the artefacts to make.

    Raises:
        UnfitError: If a named learner or normalizer does not exist, or a named learner has no artefact.
    """
    record = Record(
        fingerprint=bundle.fingerprint,
        images=len(chosen.images.images),
        data=digest(chosen.images),
        version=version("acclimate"),
    )
    works = [*_probe(chosen, record)]
    works += [Work(name, record, partial(measure, source, chosen.images)) for name, measure in MEASURES.items()]
    for artefact, adapter in _adapters(bundle, wanted):
        name = artefact_file(artefact, adapter.normalizer.name, wanted.batch)
        keyed = record.model_copy(update={"normalizer": adapter.normalizer.name, "batch": wanted.batch})
        works.append(Work(name, keyed, partial(adapter.calibrate, source, chosen.images, wanted.batch)))
    return works


def check_names(names: Collection[str], known: Collection[str], kind: str) -> None:
    """Check that all names are known; `kind` says in the error what they name.

    Raises:
        UnfitError: If a name is not known. The message lists the known ones.
    """
    for name in names:
        if name not in known:
            raise UnfitError(f"there is no {kind} {name!r}; there are: {', '.join(sorted(known))}")


def learners() -> dict[str, type[Learner[Any]]]:
    """Return the learners that have a source artefact, by name."""
    found = cast("dict[str, type[Learner[Any]]]", parts("learner"))
    return {name: learner for name, learner in found.items() if learner.artefact}


def _adapters(bundle: Bundle, wanted: Wanted) -> Iterator[tuple[str, Pipeline]]:
    """Yield the distinct artefacts of learners, each with the pipeline that it is made under."""
    known = learners()
    check_names(wanted.learners, known, "learner with a source artefact")
    check_names(wanted.normalizers, parts("normalizer"), "normalizer")
    planned_before: set[tuple[str, str]] = set()
    for name in wanted.learners or known:
        for normalizer in wanted.normalizers or _usual_normalizers(known[name], bundle):
            if (known[name].artefact, normalizer) not in planned_before:
                planned_before.add((known[name].artefact, normalizer))
                yield known[name].artefact, pipeline(f"{normalizer}+{name}")


def _usual_normalizers(learner: type[Learner[Any]], bundle: Bundle) -> list[str]:
    """Return the learner's own normalizer, and those that the bundle's default adapter runs it with."""
    pipelines = pipelines_of(create(bundle.toml.adapter))
    chosen = [each for each in pipelines if len(pipelines) == 1 or each.learner.name == learner.name]
    return list(dict.fromkeys([learner.normalizer, *(each.normalizer.name for each in chosen)]))


def _probe(chosen: Chosen, record: Record) -> Sequence[Work]:
    if chosen.probe is None:
        return []
    probe = chosen.probe
    own = record.model_copy(update={"images": len(probe.images), "data": digest(probe)})
    tensors = {"images": probe.images, "labels": probe.labels}

    def make(advance: Callable[[float], None]) -> Mapping[str, Tensor]:
        advance(1)
        return tensors

    return [Work(PROBE, own, make)]
