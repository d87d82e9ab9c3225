"""The page of every operation of the HTTP API."""

import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from service.api.middleware.access import scope_of
from service.app import create_app
from service.settings import Settings
from tests.project.generated.tables import page, table

INTRO = """\
The server's own page `/docs` documents each operation with its bodies and answers, and calls it; `/openapi.json` is
the schema that clients are generated from. `service.client.Client` is one in Python.

`/v2` is the Open Inference Protocol, for data; `/v1` is for control. A server with keys wants one of the scope
named below, as `Authorization: Bearer KEY` or `X-API-Key: KEY`; scope `admin` includes the others."""
ERRORS = """\
Each error is `{"error": "..."}`: the value that was given, and the values that were expected."""
OUTSIDE = """\
Besides these, `/` is the page, `/metrics` answers Prometheus (scope `read`), and `POST /v1/session` logs a browser
in."""
SENTENCE = re.compile(r"(?<=[.;]) |\n")
GROUPS = (("Inference: /v2", "/v2"), ("Control: /v1", "/v1"))


def http_api() -> str:
    operations = sorted(_operations(), key=lambda each: (each[1], each[0]))
    parts = [
        (f"## {title}", table(("call", "scope", "what it does"), _rows(operations, prefix))) for title, prefix in GROUPS
    ]
    return page("HTTP API", INTRO, ERRORS, *(text for part in parts for text in part), OUTSIDE)


def schema() -> dict[str, Any]:
    """The OpenAPI schema of a server of the embedded model."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder), compiled=False, try_gradients=False)
        return create_app(settings).openapi()


def _operations() -> Iterable[tuple[str, str, str]]:
    for path, operations in schema()["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, SENTENCE.split(operation["description"])[0].rstrip(".;")


def _rows(operations: list[tuple[str, str, str]], prefix: str) -> Iterable[tuple[str, str, str]]:
    for method, path, summary in operations:
        if path == prefix or path.startswith(f"{prefix}/"):
            yield f"`{method} {path}`", scope_of(method, path) or "open", summary
