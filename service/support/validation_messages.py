"""Pydantic's validation errors as plain sentences: the field, its value, and the expected value."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from reprlib import Repr
from typing import Any, TypeAlias

Problem: TypeAlias = Mapping[str, Any]
"""One entry of `ValidationError.errors()`."""

MAX_SHOWN = 80
NAME_WORDS = "a letter or digit, then at most 127 letters, digits, `.`, `_` or `-`"
BRIEF = Repr()
BRIEF.maxstring = BRIEF.maxother = MAX_SHOWN
PATTERNS: Mapping[str, str] = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$": NAME_WORDS,
    r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$": "`package.module:callable`",
    r"^[0-9a-f]{24}$": "24 digits and letters a to f",
}
MEMBERS = frozenset({"str", "int", "float", "bool", "none", "constrained-int", "constrained-str", "constrained-float"})
STATEMENTS: Mapping[str, str] = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "json_invalid": "is not JSON",
}
KINDS: Mapping[str, str] = {
    "bool": "true or false",
    "bytes": "bytes",
    "date": "a date",
    "dataclass": "a table of names and values",
    "dict": "a table of names and values",
    "float": "a number",
    "frozen_set": "a list",
    "int": "a whole number",
    "list": "a list",
    "mapping": "a table of names and values",
    "model": "a table of names and values",
    "none": "nothing",
    "path": "a path",
    "set": "a list",
    "string": "text",
    "tuple": "a list",
    "url": "a URL",
}
"""The expected type in words, by the prefix of pydantic's error type."""
BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than": lambda context: f"more than {context['gt']}",
    "greater_than_equal": lambda context: f"at least {context['ge']}",
    "less_than": lambda context: f"less than {context['lt']}",
    "less_than_equal": lambda context: f"at most {context['le']}",
    "multiple_of": lambda context: f"a multiple of {context['multiple_of']}",
    "string_too_short": lambda context: f"at least {_counted(context['min_length'], 'character')}",
    "string_too_long": lambda context: f"at most {_counted(context['max_length'], 'character')}",
    "too_short": lambda context: f"at least {_counted(context['min_length'], 'entry')}",
    "too_long": lambda context: f"at most {_counted(context['max_length'], 'entry')}",
    "string_pattern_mismatch": lambda context: _pattern(context["pattern"]),
    "literal_error": lambda context: str(context["expected"]),
    "enum": lambda context: str(context["expected"]),
    "finite_number": lambda _: "a finite number",
    "int_from_float": lambda _: "a whole number",
}


def sentences(problems: Iterable[Problem], most: int = 3, *, skip: int = 0) -> str:
    """Return the errors of the first `most` fields in words, joined by semicolons.

    `skip` is how many leading parts of each location are left out.

    Example:
        >>> from pydantic import BaseModel, ValidationError
        >>> class Server(BaseModel):
        ...     port: int
        ...     label: int | bool
        >>> try:
        ...     Server(port="x", label=[])
        ... except ValidationError as error:
        ...     print(sentences(error.errors()))
        port is 'x', expected a whole number; label is [], expected a whole number, or true or false
    """
    by_place: dict[str, list[Problem]] = {}
    for problem in problems:
        by_place.setdefault(_place(problem["loc"], skip), []).append(problem)
    return "; ".join(_sentence(place, found) for place, found in list(by_place.items())[:most])


def _place(loc: Sequence[int | str], skip: int) -> str:
    """Return an error's location without the names that pydantic gives to members of a union."""
    parts = [str(part) for part in loc[min(skip, len(loc) - 1) if loc else 0 :]]
    named = [part for number, part in enumerate(parts) if "[" not in part and not (number and part in MEMBERS)]
    return ".".join(named)[:MAX_SHOWN]


def _sentence(place: str, found: Sequence[Problem]) -> str:
    """Describe the errors of one field. There are several if the field is a union: one for each member."""
    first = found[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind in {"value_error", "assertion_error"}:
        message = str(context.get("error", first["msg"]))
        return f"{place}: {message}" if place else message
    if kind in STATEMENTS:
        return f"{place or 'it'} {STATEMENTS[kind]}"
    expected = dict.fromkeys(_expected(each["type"], each.get("ctx", {}), each["msg"]) for each in found)
    return f"{place or 'it'} is {_shown(first['input'])}, expected {', or '.join(expected)}"


def _expected(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in BOUNDS:
        return BOUNDS[kind](context)
    found = (words for prefix, words in KINDS.items() if kind.startswith(f"{prefix}_"))
    return next(found, f"another value ({message})")


def _pattern(pattern: str) -> str:
    return PATTERNS.get(pattern, f"text that matches {pattern}")


def _shown(value: object) -> str:
    text = BRIEF.repr(value)  # reads only the first entries of large values
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _counted(count: int, noun: str) -> str:
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else many}"
