"""Errors of specs on the embedded model's corrupted test images: `python -m benchmarks.embedded --help`.

This is the evidence for the default spec. Each spec and order runs one continual stream: clean images, then every
corruption at one severity, without resets. In i.i.d. order, images are shuffled. In correlated order, they are sorted
by label, with noise that lets neighbouring classes overlap, as if a camera saw one thing for a while.
"""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import typer
from rich.table import Table

from benchmarks import report
from benchmarks.report import JsonFile
from service.models.bundle import read_bundle
from service.models.hosted import HostedModel, host
from service.offline.evaluation import runs
from service.offline.evaluation.data import CLEAN, Domains
from service.offline.evaluation.layouts import Wanted, embedded
from service.offline.evaluation.protocols import Plan, given
from service.settings import EMBEDDED

SPECS: dict[str, dict[str, Any]] = {
    "source": {},
    "batch": {},
    "batch+tent": {},
    "batch+eta": {},
    "alpha": {},
    "ema": {},
    "ema+eta": {"eta": {"lr": 1e-4}},
    "unmix_tns": {},
    "unmix_tns+eta": {},
    "source+lame": {},
}
ORDERS = ("iid", "correlated")
OVERLAP = 0.7
"""Standard deviation, in classes, of the noise on the sorted labels."""

Indices = npt.NDArray[np.intp]


def order_of(labels: npt.NDArray[np.int64], order: str, seed: int) -> Indices:
    """Return an order (N,) of images from their labels (N,)."""
    generator = np.random.default_rng(seed)
    if order == "iid":
        return generator.permutation(len(labels))
    return np.argsort(labels + generator.normal(0, OVERLAP, len(labels)))


def plan_of(domains: Domains, order: str, seed: int) -> Plan:
    """Return the stream: one domain after the other, each with the same order of images."""
    labels = next(iter(domains)).labels
    return Plan("continual", tuple(given(domains, np.tile(order_of(labels, order, seed), (len(domains), 1)))))


def run(model: HostedModel, images: int, batch: int, severity: int, seed: int) -> list[dict[str, Any]]:
    """Run every spec in both orders, and return a row for each run."""
    domains = embedded(model.bundle.input, Wanted(images=images, severity=severity, seed=seed))
    plans = {order: plan_of(domains, order, seed) for order in ORDERS}
    rows = []
    with report.progress() as progress:
        for spec, order in progress.track([(spec, order) for spec in SPECS for order in ORDERS]):
            adapter = model.fit(spec, SPECS[spec]).adapter
            found = runs.run(adapter, model.source, domains, plans[order], batch, lambda _: None)
            mean = float(np.mean([error for domain, error in found.errors.items() if domain != CLEAN]))
            row = {"spec": spec, "order": order, "corrupted": mean, "ms": found.milliseconds, "errors": found.errors}
            rows.append(row)
    return rows


def as_table(rows: list[dict[str, Any]]) -> Table:
    """Return a table of the mean errors over the corruptions and the clean errors, per spec and order."""
    title = "Error in %: mean over the corruptions (clean images)"
    result = report.new_table(title, ("spec", *ORDERS, "ms per batch"))
    for spec in SPECS:
        mine = [row for row in rows if row["spec"] == spec]
        cells = [f"{row['corrupted']:.1f} ({row['errors'][CLEAN]:.1f})" for row in mine]
        result.add_row(spec, *cells, f"{np.median([row['ms'] for row in mine]):.0f}")
    return result


def main(
    images: Annotated[int, typer.Option(min=10, max=2500, help="Images per domain.")] = 2500,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 50,
    severity: Annotated[int, typer.Option(min=1, max=5, help="Severity of the corruptions.")] = 4,
    seed: Annotated[int, typer.Option(help="Seed of orders and corruptions.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="PyTorch's threads.")] = 1,
    json_file: JsonFile = None,
) -> None:
    """Compare specs on the embedded model's test images, clean and under every corruption, in both orders."""
    torch.set_num_threads(threads)
    model = host(read_bundle(EMBEDDED), ["service.demo.network:build"], threads)
    rows = run(model, images, batch, severity, seed)
    report.write(as_table(rows), width=100, figures=rows, json_file=json_file)


if __name__ == "__main__":
    typer.run(main)
