"""`acclimate bundle check`: reads a bundle and answers requests with it, without a server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adapters.network.reference_statistics import running_statistics_distance
from service.cli.arguments import AllowFactory
from service.errors import BundleError
from service.models.bundle import read_bundle
from service.models.gradient_trials import Trials
from service.models.hosted import HostedModel, host
from service.serving.rehearsal import rehearse, unfit_for_auto
from service.settings import Settings

app = typer.Typer(rich_markup_mode="markdown")
bundle_app = typer.Typer(help="Check model bundles.", no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(bundle_app, name="bundle")


@bundle_app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The bundle folder.")],
    allow_factory: AllowFactory = None,
) -> None:
    """Read a bundle, print a summary, and answer requests of 1, 2 and 16 images with it.

    The requests go through `source`, the bundle's own spec and `auto`, as on a server. Failures are listed, and the
    exit status is then 2.
    """
    settings = Settings()
    bundle = read_bundle(folder)
    factories, threads = (*settings.allow_factories, *(allow_factory or [])), settings.torch_threads
    trials = Trials(None, factories, threads) if settings.try_gradients else None
    model = host(bundle, factories, threads, trials=trials)
    Console().print(_summary(model))
    failures = rehearse(model)
    if failures:
        raise BundleError("\n".join(map(str, failures)))


def _summary(model: HostedModel) -> Table:
    output, _ = model.default.step(model.default.initial(), model.sample())
    toml, spec = model.bundle.toml, model.bundle.input
    table = Table(title=f"{toml.name} {toml.version}", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    rows = {
        "fingerprint": model.bundle.fingerprint,
        "model": f"{toml.model.kind}, {model.bundle.model_file.stat().st_size / 1e6:.2f} MB",
        "input": f"{spec.name} {spec.datatype} [N, {', '.join(map(str, spec.shape))}] in {list(spec.value_range)}",
        "classes": f"{len(model.bundle.classes)}: {', '.join(model.bundle.classes[:5])} ...",
        "output": toml.model.output,
        "default adapter": model.default.spec,
        "artefacts": ", ".join(model.bundle.artefact_names) or "none; `acclimate calibrate` makes them",
        "reference": _reference(model),
        "sample": f"two made images answered, entropy {float(output.signals['entropy']):.3f} nats",
        "auto": unfit_for_auto(model) or "fits",
        "licence": toml.licence,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _reference(model: HostedModel) -> str:
    """Describe the reference statistics of a model's batch-norm layers."""
    if model.source.opaque or not model.source.has_batch_norm:
        return "the model has no batch norm that needs one"
    apart = running_statistics_distance(model.source)
    if apart is None:
        return "none: normalizers use the network's running statistics; `acclimate calibrate` measures your images'"
    return f"measured; the running statistics' distance from it is {apart:.2g}"
