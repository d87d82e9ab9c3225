"""The command `acclimate serve`. It takes its port first, and loads torch only then."""

from pathlib import Path
from typing import Annotated, Any

import typer

from service.api.keys import check_listening, make_first_key, read_keys
from service.cli.arguments import AllowFactory
from service.errors import SettingsError
from service.settings import Settings
from service.support.port import Port

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def serve(
    bundle: Annotated[
        list[Path] | None, typer.Option(help="A bundle folder; may be repeated. Default: the embedded model.")
    ] = None,
    host_name: Annotated[str | None, typer.Option("--host", help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. Default: 8000.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for all stored data. Default: ./acclimate-data.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="File of API keys; see `acclimate key`.")] = None,
    first_key: Annotated[
        bool,
        typer.Option("--first-key", help="If the keys file is missing, create it with an admin key and print the key."),
    ] = False,
    new_catalogue: Annotated[
        bool,
        typer.Option("--new-catalogue", help="Start although the catalogue was lost; streams start over."),
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback without keys.")] = False,
    allow_factory: AllowFactory = None,
) -> None:
    """Serve models; every stream adapts by itself.

    Each setting is also an environment variable, such as `ACCLIMATE_PORT`; docs/settings.md lists all settings.

    Ctrl-C or SIGTERM stops the server. It answers running requests and saves all streams except `ephemeral` ones. They
    continue at the next start.

    Example: `acclimate serve --bundle ./my-model --port 9000`
    """
    arguments: dict[str, Any] = {
        "bundles": tuple(bundle) if bundle else None,
        "host": host_name,
        "port": port,
        "data": data,
        "keys_file": keys_file,
        "new_catalogue": new_catalogue or None,
        "insecure": insecure or None,
    }
    settings = Settings(**{name: value for name, value in arguments.items() if value is not None})
    settings = settings.model_copy(update={"allow_factories": (*settings.allow_factories, *(allow_factory or []))})
    if first_key:
        if settings.keys_file is None:
            raise SettingsError("--first-key needs a keys file to create; expected --keys-file FILE with it")
        key = make_first_key(settings.keys_file)
        if key:
            typer.echo(f"Admin key, shown this once: {key}")
    check_listening(settings.host, read_keys(settings.keys_file), insecure=settings.insecure)
    with Port(settings.host, settings.port) as reserved:
        from service.server import run  # loads torch, which takes seconds

        run(settings, reserved)
