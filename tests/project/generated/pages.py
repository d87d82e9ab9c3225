"""Every generated page, and what makes it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.project.generated.commands import commands
from tests.project.generated.http_api import http_api
from tests.project.generated.layers import drawing
from tests.project.generated.methods import methods
from tests.project.generated.settings import settings
from tests.project.generated.signals import signals
from tests.project.pages import DOCS

GENERATED: Mapping[Path, Callable[[], str]] = {
    DOCS / "commands.md": commands,
    DOCS / "http-api.md": http_api,
    DOCS / "images" / "layers.svg": drawing,
    DOCS / "methods.md": methods,
    DOCS / "settings.md": settings,
    DOCS / "signals-and-metrics.md": signals,
}
