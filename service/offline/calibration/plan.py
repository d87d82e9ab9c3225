"""Plans a calibration: one piece of work for each artefact, with the record that its file will hold."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, cast

from torch import Tensor

from adapters import Pipeline, SourceModel, create, pipeline
from adapters.base import Learner
from adapters.network.reference_statistics import REFERENCE
from adapters.registry import parts, pipelines_of
from adapters.source import artefact, artefact_file
from service.errors import UnfitError
from service.models.artefacts import Record, reference_digest
from service.models.bundle import Bundle
from service.offline.calibration.choice import Chosen, digest
from service.offline.calibration.measures import Measure, entropy, features, reference

PROBE = "probe"
MEASURES: Mapping[str, Measure] = {"features": features, "entropy": entropy}


@dataclass(frozen=True)
class Wanted:
    """The settings of a calibration.

    Attributes:
        learners: The learners whose artefacts are made; () for all.
        normalizers: The normalizers that they are made under; () for each learner's usual ones.
        batch: Images per batch.
        reference: Whether to measure the reference statistics of norm layers.
    """

    learners: tuple[str, ...] = ()
    normalizers: tuple[str, ...] = ()
    batch: int = 64
    reference: bool = True


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


def reference_work(bundle: Bundle, source: SourceModel, chosen: Chosen) -> Work:
    """Return the work that measures the reference statistics. Learners' artefacts are made under its result."""
    return Work(REFERENCE, _record(bundle, chosen), partial(reference, source, chosen.images))


def planned(
    bundle: Bundle, source: SourceModel, chosen: Chosen, wanted: Wanted, outdated: Collection[str] = ()
) -> list[Work]:
    """List the artefacts to make, other than the reference statistics, which `source` already has.

    Args:
        bundle: The bundle.
        source: Its model.
        chosen: The source images.
        wanted: The learners, normalizers and batch size.
        outdated: Names of existing artefacts to make again, such as fisher@batch@64.
    """
    record = _record(bundle, chosen)
    works = [*_probe(chosen, record)]
    works += [Work(name, record, partial(measure, source, chosen.images)) for name, measure in MEASURES.items()]
    keyed = [(made, adapter, wanted.batch) for made, adapter in _adapters(bundle, wanted)]
    learned = [_learned(source, chosen, record, *each) for each in [*keyed, *_again(outdated)]]
    return [*works, *{work.name: work for work in learned}.values()]


def _learned(source: SourceModel, chosen: Chosen, record: Record, made: str, adapter: Pipeline, batch: int) -> Work:
    """Return the work that makes a learner's artefact under a normalizer."""
    normalizer = adapter.normalizer.name
    under = reference_digest(artefact(source.artefacts, REFERENCE))
    own = record.model_copy(update={"normalizer": normalizer, "batch": batch, "reference": under})
    make = partial(adapter.calibrate, source, chosen.images, batch)
    return Work(artefact_file(made, normalizer, batch), own, make)


def _again(names: Collection[str]) -> Iterator[tuple[str, Pipeline, int]]:
    """Yield the artefacts with these names, as far as a learner of this version makes them."""
    by_artefact = {learner.artefact: name for name, learner in learners().items()}
    for made, normalizer, batch in (name.split("@") for name in names if name.count("@") == 2):
        if made in by_artefact and normalizer in parts("normalizer"):
            yield made, pipeline(f"{normalizer}+{by_artefact[made]}"), int(batch)


def _record(bundle: Bundle, chosen: Chosen) -> Record:
    return Record(
        fingerprint=bundle.fingerprint,
        images=len(chosen.images.images),
        data=digest(chosen.images),
        version=version("acclimate"),
    )


def check_wanted(wanted: Wanted) -> None:
    """Check that the named learners and normalizers exist, and that the learners have a source artefact.

    Raises:
        UnfitError: If one does not. The message lists those that do.
    """
    check_names(wanted.learners, learners(), "learner with a source artefact")
    check_names(wanted.normalizers, parts("normalizer"), "normalizer")


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
