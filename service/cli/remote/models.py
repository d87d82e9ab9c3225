"""`acclimate models` and `acclimate adapters`: the models of a server, and the parts that specs can name."""

from typing import Annotated

import typer

from service.cli.output.printing import print_list, print_one
from service.cli.remote import catalogues
from service.cli.remote.connection import DEFAULT_URL, reach
from service.cli.remote.errors import MistakeError
from service.cli.remote.options import AsJson, KeyFile, Url
from service.client import AdapterPart, RefusedError

KINDS = ("normalizer", "learner", "output", "selector")
Kind = Annotated[str | None, typer.Option(help=f"Only parts of this kind: {', '.join(KINDS)}.")]


def models(
    model: Annotated[str | None, typer.Argument(help="The model to show in full. Default: list all.")] = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List the models that a server serves, or show one in full.

    Example: `acclimate models fashion`
    """
    with reach(url, key_file) as client:
        served = client.models()
        if model is None:
            print_list(served, catalogues.models, "No model is served.", as_json=as_json)
            return
        found = [each for each in served if each.name == model]
        if not found:
            raise RefusedError(f"there is no model {model!r}; served are {', '.join(each.name for each in served)}")
        print_one(found[0], catalogues.model, as_json=as_json)


def adapters(
    part: Annotated[str | None, typer.Argument(help="The part to show with its options. Default: list all.")] = None,
    kind: Kind = None,
    url: Url = DEFAULT_URL,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List the parts that a spec can name, or show one with its options.

    A spec joins a normalizer, a learner and an output adjuster by `+`. The learner has defaults for omitted parts.
    Example: `acclimate adapters eata`
    """
    if kind is not None and kind not in KINDS:
        raise MistakeError(f"--kind is {kind!r}, expected one of {', '.join(KINDS)}")
    with reach(url, key_file) as client:
        parts = [each for each in client.adapters() if kind in (None, each.kind)]
        if part is None:
            print_list(parts, catalogues.parts, "There are no parts.", as_json=as_json)
            return
        print_one(_named(parts, part), catalogues.part, as_json=as_json)


def _named(parts: list[AdapterPart], name: str) -> AdapterPart:
    found = next((each for each in parts if each.name == name), None)
    if found is None:
        raise RefusedError(f"there is no part {name!r}; there are: {', '.join(sorted(each.name for each in parts))}")
    return found
