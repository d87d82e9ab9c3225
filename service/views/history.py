"""A stream's time series and its results on the probe set."""

from typing import Any

from service.views.events import EventView
from service.views.view import View


class ComparedView(View):
    """The features of the newest images against the source's, by two-sample tests."""

    mmd: float
    p_value: float
    unlike: float
    """Share of the dimensions that differ."""


class ProbeView(View):
    """A state's results on the probe set."""

    accuracy: float
    forgetting: float
    source_gap: float
    generation: int
    steps: int
    time: float
    compared: ComparedView | None


class HistoryView(View):
    """A stream's series: one row of `columns` for each point, with null for unknown values."""

    columns: list[str]
    points: list[list[float | None]]
    resolution: int | None
    """Seconds that a point stands for, if a span was requested; otherwise newer points are finer."""
    oldest: float | None
    """The time of the oldest point, in Unix seconds."""
    next: int
    layers: dict[str, Any]
    classes: dict[str, Any]
    entropies: list[float]
    """Share of the images by entropy, in twenty equal steps from 0 to ln(classes)."""
    probe: ProbeView | None
    events: list[EventView]
    misfits: list[dict[str, Any]]
