"""The page of all parts that a spec may name."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from adapters.base import Part
from adapters.options import json_schema
from adapters.registry import FOLDERS, Kind, parts
from tests.project.generated.tables import page, table

INTRO = """\
A spec joins a normalizer, a learner and an output adjuster, as `unmix_tns+eta+lame`, or names a selector, as
`auto`. A part that is left out is the learner's default: `tent` means `batch+tent`. Every combination works, or is
refused with the reason before the first request. [Choosing a method](choosing-a-method.md) says which spec suits
which stream.

Options are given by part name: `{"adapter": "batch+eta", "options": {"eta": {"lr": 1e-4}}}`. Besides them there are
`seed`, the origin of all random draws, and `precision`, `float32` or `bfloat16`."""
KINDS: dict[Kind, tuple[str, str]] = {
    "normalizer": ("Normalizers", "A normalizer decides where norm layers get their statistics from."),
    "learner": ("Learners", "A learner chooses the parameters that learn, and their loss."),
    "output": ("Output adjusters", "An output adjuster changes the answers, after the network."),
    "selector": ("Selectors", "A selector watches the stream, and runs the pipeline that fits."),
}
HEADED = re.compile(r"^(Args|Remembers|Needs|Reference|Example|Returns|Raises):", re.MULTILINE)


def methods() -> str:
    return page("Methods", INTRO, *(text for kind in FOLDERS for text in _of_kind(kind)))


def named(kind: Kind) -> list[type[Part]]:
    """Return the parts of a kind that a spec may name."""
    return [part for part in parts(kind).values() if part.name != "none"]


def _of_kind(kind: Kind) -> Iterator[str]:
    title, said = KINDS[kind]
    rows = ((f"[`{part.name}`](#{part.name})", part.remembers, _needs(part), part.paper) for part in named(kind))
    yield f"## {title}"
    yield said
    yield table(("part", "remembers", "needs", "paper"), rows)
    for part in named(kind):
        yield f"### {part.name}"
        yield _summary(part)
        yield from _options(part)


def _summary(part: type[Part]) -> str:
    """Return a part's docstring up to its first headed paragraph."""
    text = re.sub(r"^    ", "", part.__doc__ or "", flags=re.MULTILINE)
    return HEADED.split(text)[0].strip()


def _needs(part: type[Part]) -> str:
    found = re.search(r"Needs: (.*?)\n\s*(?:Reference|\n)", part.__doc__ or "", re.DOTALL)
    return " ".join(found[1].split()).rstrip(".") if found else ""


def _options(part: type[Part]) -> Iterator[str]:
    schemas = json_schema(part.options_class)["properties"]
    if schemas:
        names = [field.name for field in dataclasses.fields(part.options_class)]
        found = ((name, schemas[name]) for name in names)
        rows = ((f"`{name}`", _default(each), _allowed(each), str(each["description"])) for name, each in found)
        yield table(("option", "default", "allowed", "meaning"), rows)


def _default(schema: dict[str, Any]) -> str:
    value = schema["default"]
    return "none" if value in (None, "") else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema["type"] == "boolean":
        return "`true`, `false`"
    low, high = schema.get("minimum"), schema.get("maximum")
    limits = (f"at least {low:g}" if low is not None else "", f"at most {high:g}" if high is not None else "")
    return ", ".join(filter(None, limits))
