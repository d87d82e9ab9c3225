"""The OpenAPI schema, adapted for generated clients."""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel

Schema: TypeAlias = dict[str, Any]


def operation_id(route: APIRoute) -> str:
    """Return a route's name, which becomes a function's name in generated clients."""
    return route.name


def install(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Extend an app's schema.

    Its parameters are optional but never null, since HTTP has no null. The schemas of `bodies` are added, although
    their routes read the bodies themselves.
    """
    app.openapi = _extended(app.openapi, bodies)  # type: ignore[method-assign]  # as FastAPI's documentation has it


def _extended(
    schema_of: Callable[[], dict[str, Any]], bodies: Iterable[type[BaseModel]]
) -> Callable[[], dict[str, Any]]:
    def openapi() -> dict[str, Any]:
        schema = schema_of()
        for body in bodies:
            described = body.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = described.pop("$defs", {})
            schema["components"]["schemas"] |= {**parts, body.__name__: described}
        for operations in schema["paths"].values():
            for operation in operations.values():
                for parameter in operation.get("parameters", ()):
                    parameter["schema"] = _not_null(parameter["schema"])
        return schema

    return openapi


def _not_null(schema: Schema) -> Schema:
    """Return a parameter's schema without the choice of null.

    Example:
        >>> _not_null({"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}], "title": "Stream"})
        {'title': 'Stream', 'type': 'string', 'maxLength': 9}
    """
    choices: list[Schema] = [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) != 1:
        return schema
    return {name: value for name, value in schema.items() if name != "anyOf"} | choices[0]
