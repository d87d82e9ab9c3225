"""Fields of a JSON object that a client sent: read by name and type, refused as malformed otherwise."""

import reprlib
from collections.abc import Iterable
from typing import Any, TypeVar

from service.errors import MalformedError, TooLargeError
from service.types import Parameter

_T = TypeVar("_T")
_WORDS: dict[type, str] = {str: "a string", bool: "a boolean", int: "an integer", list: "an array", dict: "an object"}
_MAX_OBJECTS = 1024
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = 80
_BRIEF.maxlist = 8
_BRIEF.maxlevel = 2


def shown(value: object) -> str:
    """Show what a client sent, short enough for an error message however long it is.

    >>> shown([0] * 1000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    return f"{_BRIEF.repr(value):.200}"


def optional(holder: dict[str, Any], key: str, kind: type[_T], where: str) -> _T | None:
    """Read a field that may be left out or null; None in both cases.

    Args:
        holder: The JSON object.
        key: The field's name.
        kind: The one type it may have: str, bool, int, list or dict.
        where: How an error names the object.

    Raises:
        MalformedError: The field is of another type.
    """
    value = holder.get(key)
    # type() and not isinstance(): to JSON, true is no integer.
    if value is None or type(value) is kind:
        return value
    raise MalformedError(f"{where}: {key} is {shown(value)}; {_WORDS[kind]} is expected")


def required(holder: dict[str, Any], key: str, kind: type[_T], where: str) -> _T:
    """Read a field as `optional` does, and refuse its absence too.

    Raises:
        MalformedError: The field is missing, null or of another type.
    """
    value = optional(holder, key, kind, where)
    if value is None:
        raise MalformedError(f"{where}: {key} is missing; {_WORDS[kind]} is expected")
    return value


def parameters_of(holder: dict[str, Any], where: str) -> dict[str, Parameter]:
    """Read the field `parameters`, empty if there is none.

    Raises:
        MalformedError: It is not an object of strings, numbers and booleans.
    """
    parameters: dict[str, Any] = optional(holder, "parameters", dict, where) or {}
    for key, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            given = f"{where}: parameter {shown(key)} is {shown(value)}"
            raise MalformedError(f"{given}; a string, a number or a boolean is expected")
    return parameters


def objects(holder: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Read an array of objects, empty if the field is left out.

    Raises:
        MalformedError: The field is not an array, or holds something else.
        TooLargeError: It holds too many objects.
    """
    values: list[Any] = optional(holder, key, list, where) or []
    if len(values) > _MAX_OBJECTS:
        raise TooLargeError(f"{where}: {key} holds {len(values)} objects; at most {_MAX_OBJECTS} are expected")
    for value in values:
        if not isinstance(value, dict):
            raise MalformedError(f"{where}: {key} holds {shown(value)}; objects are expected")
    return values


def check_unique(names: Iterable[str], what: str) -> None:
    """Refuse a name that comes twice.

    Raises:
        MalformedError: Naming it, and `what` it names.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MalformedError(f"More than one of the {what} is named {shown(name)}")
        seen.add(name)
