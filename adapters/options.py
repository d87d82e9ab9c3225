"""Options of parts: frozen dataclasses whose fields carry a description and a range."""

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from adapters.errors import OptionError

OptionsT = TypeVar("OptionsT", bound="Options")
MAX_SHOWN = 80
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """No options; a part with options declares a subclass."""

    def __post_init__(self) -> None:
        """Check every field against its type and range.

        Raises:
            OptionError: If one is wrong; the message names the field, its value and the allowed values.
        """
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            checked = _checked(field.name, value, hints[field.name], field.metadata)
            object.__setattr__(self, field.name, checked)


def option(default: Any, description: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Declare one option: its default, its description and its inclusive range."""
    return dataclasses.field(default=default, metadata={"description": description, "low": low, "high": high})


def build_options(cls: type[OptionsT], part: str, values: Mapping[str, object]) -> OptionsT:
    """Make a part's options from a mapping.

    Raises:
        OptionError: If a name is unknown, or a value has the wrong type or is out of range.
    """
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        listed = ", ".join(names) if names else "none at all"
        raise OptionError(f"{part} has no option {unknown[0]!r}; its options are: {listed}")
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{part}: {error}") from None


def json_schema(cls: type[Options]) -> dict[str, Any]:
    """Return the JSON Schema of an options class."""
    hints = typing.get_type_hints(cls)
    properties = {field.name: _field_schema(hints[field.name], field) for field in dataclasses.fields(cls)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _field_schema(hint: Any, field: "dataclasses.Field[Any]") -> dict[str, Any]:
    schema: dict[str, Any] = {"description": field.metadata.get("description", ""), "default": field.default}
    if typing.get_origin(hint) is Literal:
        return schema | {"type": "string", "enum": list(typing.get_args(hint))}
    schema["type"] = JSON_TYPES[_scalar(hint)]
    if field.default is None:
        schema["type"] = [schema["type"], "null"]
    limits = {"minimum": field.metadata.get("low"), "maximum": field.metadata.get("high")}
    return schema | {name: limit for name, limit in limits.items() if limit is not None}


def _scalar(hint: Any) -> type:
    """The scalar type of `float` or of `float | None`."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)] or [hint]
    return typing.cast("type", kinds[0])


def _checked(name: str, value: Any, hint: Any, metadata: Mapping[str, Any]) -> Any:
    if value is None and type(None) in typing.get_args(hint):
        return None
    if typing.get_origin(hint) is Literal:
        return _one_of(name, value, typing.get_args(hint))
    kind = _scalar(hint)
    if kind is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not kind:
        raise OptionError(f"{name} is {_shown(value)}, expected {JSON_TYPES[kind]}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _in_range(name, value, metadata.get("low"), metadata.get("high"))
    return value


def _one_of(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise OptionError(f"{name} is {_shown(value)}, expected one of {', '.join(map(str, allowed))}")
    return value


def _in_range(name: str, value: float, low: float | None, high: float | None) -> float:
    if value != value or abs(value) == math.inf:  # math.isfinite fails on integers beyond any float
        raise OptionError(f"{name} is {value!r}, expected a finite number")
    if low is not None and value < low:
        raise OptionError(f"{name} is {_shown(value)}, expected at least {low}")
    if high is not None and value > high:
        raise OptionError(f"{name} is {_shown(value)}, expected at most {high}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
