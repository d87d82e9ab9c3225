"""The page of the server's settings."""

import json
from pathlib import Path
from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from service.settings import EMBEDDED, Settings
from tests.project.generated.tables import page, table

INTRO = """\
Each setting is an environment variable. `acclimate serve --help` lists those that are options of the command, too;
an option wins over the variable. Lists are written as JSON. A value that is out of range ends the start with exit
status 2 and a line that names the setting."""
BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below"))


def settings() -> str:
    rows = (
        (f"`ACCLIMATE_{name.upper()}`", _default(field.default), _allowed(field), field.description or "")
        for name, field in Settings.model_fields.items()
    )
    return page("Settings", INTRO, table(("setting", "default", "allowed", "meaning"), rows))


def _default(value: object) -> str:
    """Return a default as it would be written in the environment."""
    match value:
        case (Path() as only,) if only == EMBEDDED:
            return "the embedded model"
        case None | "" | ():
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return f"`{json.dumps(value)}`"
    return f"`{value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if field.annotation is bool:
        return "`true`, `false`"
    found = (
        f"{words} {getattr(bound, attribute)}"
        for bound in field.metadata
        for kind, attribute, words in BOUNDS
        if isinstance(bound, kind)
    )
    return ", ".join(found)
