"""The base of views: strict when the server makes one, tolerant when a client reads one from a newer server."""

import json
from typing import Any, Self, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo, ValidatorFunctionWrapHandler
from pydantic_core import CoreSchema, core_schema


class View(BaseModel):
    """A part of an answer. Unknown fields are errors, unless a client reads them from a server.

    A field that is added after a release needs a default: newer clients also read older servers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @classmethod
    def read(cls, text: str | bytes) -> Self:
        """Return a server's answer from its JSON; fields and values that only a newer server knows are kept.

        Raises:
            ValidationError: The text is not JSON, or a field is missing or has another type.
        """
        return cls.model_validate_json(text, extra="allow")

    def json_text(self) -> str:
        """Return the fields that were set, or that the server sent, as JSON."""
        return json.dumps(_sent(self), separators=(",", ":"), ensure_ascii=False)


def _sent(value: Any) -> Any:
    """Return a view's fields, with those that only a newer server knows: pydantic's own JSON leaves them out."""
    if isinstance(value, View):
        names = (*type(value).model_fields, *(value.model_extra or {}))
        return {name: _sent(getattr(value, name)) for name in names if name in value.model_fields_set}
    return [_sent(item) for item in value] if isinstance(value, list) else value


class Checked:
    """Annotates a field that is checked against a narrower type when the server makes the view.

    The API documents the narrower type. JSON that a client reads may hold any value of the field's own type, because a
    newer server may have more modes, badges or rules.

    Example:
        >>> from typing import Annotated, Literal
        >>> class Light(View):
        ...     colour: Annotated[str, Checked(Literal["red", "green"])]
        >>> Light.read('{"colour": "amber", "since": 7}').json_text()
        '{"colour":"amber","since":7}'
        >>> Light.model_json_schema()["properties"]["colour"]["enum"]
        ['red', 'green']
    """

    def __init__(self, narrow: Any) -> None:
        self.narrow = narrow

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        wide = get_origin(source) or source

        def check(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
            if info.mode == "json" and isinstance(value, wide):
                return value
            made = validate(value)
            return made.model_dump() if isinstance(made, BaseModel) else made

        return core_schema.with_info_wrap_validator_function(
            check, handler.generate_schema(self.narrow), serialization=core_schema.simple_ser_schema("any")
        )
