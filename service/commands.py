"""The commands that load torch: serve, demo, compare, tune, calibrate, export, bundle check, key."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table

from service.api.access import Scope
from service.arguments import AllowFactory
from service.bundles import read_bundle
from service.calibration.command import calibrate
from service.demo.tour import own_server, tour
from service.errors import BundleError, SettingsError
from service.evaluation.command import compare, tune
from service.exporting.command import export
from service.hosting import HostedModel, host
from service.operating.options import KeyFile
from service.operating.reaching import address, read_key
from service.rehearsal import rehearse, unfit_for_auto
from service.serving import make_first_key, make_key, run
from service.settings import Settings

app = typer.Typer()
bundle_app = typer.Typer(help="Look at model bundles.", no_args_is_help=True)
app.add_typer(bundle_app, name="bundle")
app.command()(compare)
app.command()(tune)
app.command()(calibrate)
app.command()(export)


@app.command()
def serve(
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle folder; may be given several times. None: the embedded model.")
    ] = None,
    host_name: Annotated[str | None, typer.Option("--host", help="Address to listen on; else 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 unless given, 0 takes a free one.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for what is kept; ./acclimate-data unless given.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="File of API keys; see `acclimate key`.")] = None,
    first_key: Annotated[
        bool, typer.Option("--first-key", help="Make the keys file with one admin key if it is missing; show it once.")
    ] = False,
    new_catalogue: Annotated[
        bool, typer.Option("--new-catalogue", help="Begin without the streams whose catalogue was lost.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback without keys.")] = False,
    allow_factory: AllowFactory = None,
) -> None:
    """Serve models; every stream adapts by itself.

    Each setting is also an environment variable, `ACCLIMATE_PORT` for one; the README lists them all. Stop with
    Ctrl-C or
    SIGTERM: requests under way are answered, and what streams have learned is kept and taken up at the next start.

    Example: `acclimate serve --bundle ./my-model --port 9000`
    """
    given: dict[str, Any] = {
        "bundles": tuple(bundle) if bundle else None,
        "host": host_name,
        "port": port,
        "data": data,
        "keys_file": keys_file,
        "new_catalogue": new_catalogue or None,
        "insecure": insecure or None,
    }
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    settings = settings.model_copy(update={"allow_factories": (*settings.allow_factories, *(allow_factory or []))})
    if first_key and settings.keys_file is not None:
        key = make_first_key(settings.keys_file)
        if key:
            typer.echo(f"Admin key, shown this once: {key}")
    run(settings)


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
    model = host(bundle, (*settings.allow_factories, *(allow_factory or [])), settings.torch_threads)
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
