"""/v1/signals: every signal that is followed for a stream, with its unit and its meaning."""

from fastapi import APIRouter

from service.api.schemas import Wire
from service.monitoring.signal import Better, Unit
from service.monitoring.signals import every_signal


class SignalView(Wire):
    """A signal: as streams, histories and `/metrics` name it."""

    name: str
    label: str
    unit: Unit
    better: Better
    """Which way is good."""
    meaning: str
    charted: bool
    """Whether a stream's history has a column of this name."""


class SignalList(Wire):
    """All signals."""

    items: list[SignalView]
    next: str | None = None


def router() -> APIRouter:
    """Return the route about signals."""
    routes = APIRouter()

    @routes.get("/v1/signals", tags=["control plane"])
    async def list_signals() -> SignalList:
        """Every signal that is followed for a stream, with its unit and its meaning."""
        return SignalList(
            items=[
                SignalView(
                    name=signal.name, label=signal.label, unit=signal.unit, better=signal.better,
                    meaning=signal.meaning, charted=signal.charted,
                )
                for signal in every_signal().values()
            ]
        )  # fmt: skip

    return routes
