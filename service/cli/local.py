"""The commands that load torch at once: demo, compare, tune, calibrate, export, bundle check, key."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table

from service.api.keys import Scope, make_key
from service.cli.arguments import AllowFactory
from service.cli.calibrate import calibrate
from service.cli.compare import compare, tune
from service.cli.export import export
from service.cli.remote.connection import address, read_key
from service.cli.remote.options import KeyFile
from service.demo.tour import own_server, tour
from service.errors import BundleError, SettingsError
from service.models.bundle import read_bundle
from service.models.gradient_trials import Trials
from service.models.hosted import HostedModel, host
from service.serving.rehearsal import rehearse, unfit_for_auto
from service.settings import Settings

app = typer.Typer()
bundle_app = typer.Typer(help="Look at model bundles.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")
app.command()(compare)
app.command()(tune)
app.command()(calibrate)
app.command()(export)


@app.command()
def demo(
    url: Annotated[str | None, typer.Option(help="A running server; None: one is started for the tour.")] = None,
    key_file: KeyFile = None,
    adapter: Annotated[str | None, typer.Option(help="The adapting stream's spec, as `batch+eta`.")] = None,
    images: Annotated[int, typer.Option(min=1, max=2500, help="Images per domain.")] = 1000,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Images per request.")] = 50,
    severity: Annotated[int, typer.Option(min=1, max=5, help="How hard the corruptions are.")] = 4,
) -> None:
    """Send a drifting stream to a frozen and to an adapting stream, and compare; then reset, snapshot and restore.

    Example: `acclimate demo --adapter batch+eta --severity 5`
    """
    with nullcontext(url) if url else own_server() as running:
        tour(address(running), read_key(key_file) if url else None, adapter, images, batch, severity)


@app.command()
def key(
    scopes: Annotated[str, typer.Option(help="Scopes joined by commas: infer, read, admin.")] = "admin",
    name: Annotated[str, typer.Option(help="Whose key it is; for your own eyes.")] = "unnamed",
) -> None:
    """Make an API key and the line for the keys file.

    The server keeps only the key's sha256. Example: `acclimate key --scopes infer --name camera-7`
    """
    unknown = sorted(set(scopes.split(",")) - set(get_args(Scope)))
    if unknown:
        raise SettingsError(f"there is no scope {unknown[0]!r}; there are {', '.join(get_args(Scope))}")
    secret, digest = make_key()
    typer.echo(f"key:  {secret}\nline: {digest} {scopes} {name}")


@bundle_app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(help="The bundle folder.")],
    allow_factory: AllowFactory = None,
) -> None:
    """Read a bundle, print what it is, and answer requests of 1, 2 and 16 images by it.

    They are answered as a server would, by `source`, the bundle's own spec and `auto`; each that fails is listed, and
    the exit status is 2 then.
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
        "sample": f"two made images answered, entropy {float(output.signals['entropy']):.3f} nats",
        "auto": unfit_for_auto(model) or "fits",
        "licence": toml.licence,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
