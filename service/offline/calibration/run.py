"""Makes a bundle's source artefacts, and prints the progress and the results."""

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from adapters import SourceModel
from service.errors import UnfitError
from service.models.bundle import Bundle
from service.offline.calibration.artefacts import (
    Result,
    foreign,
    kept_probe,
    make,
    outdated,
    probe_result,
    under_own_reference,
)
from service.offline.calibration.choice import choose
from service.offline.calibration.data import SourceData
from service.offline.calibration.plan import PROBE, Wanted, Work, check_wanted, planned, reference_work
from service.support.atomic_files import remove_left

IMAGES = 2000
PROBE_IMAGES = 500


def calibrate_bundle(
    bundle: Bundle,
    source: SourceModel,
    data: SourceData,
    wanted: Wanted,
    images: int = IMAGES,
    probe: int | None = None,
    *,
    again: bool = False,
) -> list[Result]:
    """Make a bundle's source artefacts. Show the progress, then print a table of the results.

    Args:
        bundle: The bundle, loaded without its artefacts.
        source: The bundle's model.
        data: The source images.
        wanted: The learners, normalizers and batch size to make artefacts for.
        images: Most images to use, not counting the probe set.
        probe: The size of a new probe set; None to keep an existing one.
        again: Whether to make existing artefacts again.

    Raises:
        UnfitError: If the data or a name does not fit the model.
        BundleError: If a file cannot be written.
    """
    check_wanted(wanted)
    console = Console()
    remove_left(bundle.artefacts_folder)
    kept = kept_probe(bundle) if probe is None else None
    with console.status("reading source images"):
        chosen = choose(data, images, PROBE_IMAGES if probe is None else probe, kept)
    if chosen.why_no_probe and probe is not None:
        raise UnfitError(f"no probe set can be made: {chosen.why_no_probe}")
    results = [probe_result(bundle, kept)] if kept is not None else []
    results += [Result(PROBE, "skipped", chosen.why_no_probe)] if chosen.why_no_probe else []
    try:
        if wanted.reference:
            _make_all(bundle, [reference_work(bundle, source, chosen)], results, console, again=again)
        source = under_own_reference(bundle, source)
        renewed = [file.stem for file in outdated(bundle)]
        _make_all(bundle, planned(bundle, source, chosen, wanted, renewed), results, console, again=again)
        results += [other for other in foreign(bundle) if other.name not in {result.name for result in results}]
    finally:
        console.print(_table(bundle, results))
    return results


def _make_all(bundle: Bundle, works: list[Work], results: list[Result], console: Console, *, again: bool) -> None:
    """Make the artefacts in turn. Each result is appended at once, so that the table is right after an interruption."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=len(works))
        for number, work in enumerate(works):
            progress.update(task, description=f"{work.name} ({number + 1}/{len(works)})", completed=number)
            results.append(
                make(bundle.artefacts_folder, work, lambda share: progress.advance(task, share), again=again)
            )
        progress.update(task, completed=len(works))


def _table(bundle: Bundle, results: list[Result]) -> Table:
    table = Table(title=f"Source artefacts of {bundle.name} ({bundle.fingerprint[:12]})", title_justify="left")
    for name in ("artefact", "normalizer", "batch", "images", "bytes"):
        table.add_column(name, justify="left" if name in ("artefact", "normalizer") else "right", no_wrap=True)
    table.add_column("", overflow="fold")
    for result in results:
        artefact, normalizer, batch = [*result.name.split("@"), "", ""][:3]
        counts = (f"{result.record.images:,}", f"{result.size_bytes:,}") if result.record else ("", "")
        outcome = f"{result.outcome}: {result.reason}" if result.reason else result.outcome
        table.add_row(*map(escape, (artefact, normalizer, batch, *counts, outcome)))
    return table
