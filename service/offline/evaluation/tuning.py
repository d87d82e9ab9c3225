"""Two-phase tuning: options are chosen on some domains, and errors reported on others."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from adapters.errors import OptionError
from service.errors import UnfitError
from service.offline.evaluation.comparison import Cell
from service.offline.evaluation.data import Domains
from service.offline.evaluation.pipelines import read_pipeline, with_options

MAX_GRID = 500
"""Most combinations in one tuning."""


@dataclass(frozen=True)
class Split:
    """The domains to choose options on, and the domains to report errors on."""

    choose: Domains
    report: Domains


def split(domains: Domains, choose: Sequence[str], report: Sequence[str]) -> Split:
    """Split domains by name. By default, the first third is for choosing, and all others are for reporting.

    Raises:
        UnfitError: If a domain is on both sides, or a side has none.
    """
    overlap = sorted(set(choose) & set(report))
    if overlap:
        raise UnfitError(
            f"{', '.join(overlap)} is among the domains to choose on and to report on; a choice looks better than it "
            "is on the domains that it was made on"
        )
    names = domains.names
    choosing = tuple(choose) or tuple(name for name in names if name not in report)[: max(1, len(names) // 3)]
    reporting = tuple(report) or tuple(name for name in names if name not in choosing)
    if not choosing or not reporting:
        raise UnfitError(
            f"there are {len(names)} domains, {', '.join(names)}; tuning needs one to choose and one to report on"
        )
    return Split(domains.select(choosing), domains.select(reporting))


def grid(text: str, vary: Sequence[str]) -> tuple[str, ...]:
    """Return the pipelines to choose from: the given one, then one for each combination of option values.

    Args:
        text: The given pipeline, `SPEC[,PART.OPTION=VALUE]...`.
        vary: The options to vary, each `PART.OPTION=V1,V2,...`.

    Raises:
        AdapterError: If a text is malformed, an option is unknown, or a value is out of range.

    Example:
        >>> grid("batch+eta", ["eta.lr=1e-4,1e-3"])
        ('batch+eta', 'batch+eta,eta.lr=1e-4', 'batch+eta,eta.lr=1e-3')
    """
    read_pipeline(text)
    varied = {}
    for each in vary:
        name, _, values = each.partition("=")
        varied[name.strip()] = [value.strip() for value in values.split(",")]
        if not all(varied[name.strip()]):
            raise OptionError(f"{each!r} varies nothing, expected PART.OPTION=VALUE,VALUE,...")
    count = 1
    for values_of_one in varied.values():
        count *= len(values_of_one)
    if count > MAX_GRID:
        raise OptionError(f"the grid has {count} combinations; at most {MAX_GRID} are tried")
    combinations = [with_options(text, dict(zip(varied, values, strict=True))) for values in product(*varied.values())]
    for pipeline in (text, *combinations):
        read_pipeline(pipeline)
    return tuple(dict.fromkeys((text, *combinations)))


def choose(cells: Sequence[Cell]) -> str:
    """Return the pipeline with the lowest error on the choosing domains; on a tie, the first one.

    Raises:
        UnfitError: If no pipeline could be run.
    """
    best = min(cells, key=lambda cell: cell.error)
    if not best.runs:
        raise UnfitError(best.refusal)
    return best.pipeline
