"""Reads fields of a client's JSON objects by name and type; a wrong type is a MalformedError."""

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
    """Return a client's value as text, shortened for an error message.

    >>> shown([0] * 1000)
    '[0, 0, 0, 0, 0, 0, 0, 0, ...]'
    """
    return f"{_BRIEF.repr(value):.200}"


def optional(holder: dict[str, Any], key: str, kind: type[_T], where: str) -> _T | None:
    """Read an optional field. A missing field and a null both give None.

    Args:
        holder: The JSON object.
        key: The field's name.
        kind: The field's type: str, bool, int, list or dict.
        where: The object's name in an error message.

    Raises:
        MalformedError: The field has another type.
    """
    value = holder.get(key)
    # type() instead of isinstance(), because bool is a subclass of int.
    if value is None or type(value) is kind:
        return value
    raise MalformedError(f"{where}: {key} is {shown(value)}; {_WORDS[kind]} is expected")


def required(holder: dict[str, Any], key: str, kind: type[_T], where: str) -> _T:
    """Read a required field.

    Raises:
        MalformedError: The field is missing, is null or has another type.
    """
    value = optional(holder, key, kind, where)
    if value is None:
        raise MalformedError(f"{where}: {key} is missing; {_WORDS[kind]} is expected")
    return value


def parameters_of(holder: dict[str, Any], where: str) -> dict[str, Parameter]:
    """Read the field `parameters`; a missing one gives an empty dict.

    Raises:
        MalformedError: It is not an object of strings, numbers and booleans.
    """
    parameters: dict[str, Any] = optional(holder, "parameters", dict, where) or {}
    for key, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            problem = f"{where}: parameter {shown(key)} is {shown(value)}"
            raise MalformedError(f"{problem}; a string, a number or a boolean is expected")
    return parameters


def objects(holder: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    """Read an array of objects; a missing field gives an empty list.

    Raises:
        MalformedError: The field is not an array, or an entry is not an object.
        TooLargeError: The array holds more than 1024 objects.
    """
    values: list[Any] = optional(holder, key, list, where) or []
    if len(values) > _MAX_OBJECTS:
        raise TooLargeError(f"{where}: {key} holds {len(values)} objects; at most {_MAX_OBJECTS} are expected")
    for value in values:
        if not isinstance(value, dict):
            raise MalformedError(f"{where}: {key} holds {shown(value)}; objects are expected")
    return values


def check_unique(names: Iterable[str], what: str) -> None:
    """Check that no name occurs twice; `what` says in the error message what the names are for.

    Raises:
        MalformedError: A name occurs twice.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise MalformedError(f"More than one of the {what} is named {shown(name)}")
        seen.add(name)
