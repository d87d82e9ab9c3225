"""`acclimate key`: makes an API key."""

from typing import Annotated, get_args

import typer

from service.api.keys import Scope, make_key
from service.errors import SettingsError

app = typer.Typer(rich_markup_mode="markdown")


@app.command()
def key(
    scopes: Annotated[str, typer.Option(help="Scopes joined by commas: infer, read, admin.")] = "admin",
    name: Annotated[str, typer.Option(help="The key's owner, as events name it.")] = "unnamed",
) -> None:
    """Make an API key and the line for the keys file.

    The server keeps only the key's sha256. Example: `acclimate key --scopes infer --name camera-7`
    """
    unknown = sorted(set(scopes.split(",")) - set(get_args(Scope)))
    if unknown:
        raise SettingsError(f"there is no scope {unknown[0]!r}; there are {', '.join(get_args(Scope))}")
    secret, digest = make_key()
    typer.echo(f"key:  {secret}\nline: {digest} {scopes} {name}")
