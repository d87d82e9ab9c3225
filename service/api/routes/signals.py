"""/v1/signals: every signal that is tracked for streams, with its unit and meaning."""

from fastapi import APIRouter

from service.monitoring.signal import Better, Unit
from service.monitoring.signals import every_signal
from service.views.view import View


class SignalView(View):
    """A signal, under the name that streams, histories and `/metrics` use."""

    name: str
    label: str
    unit: Unit
    better: Better
    """The direction that is good."""
    meaning: str
    charted: bool
    """True if a stream's history has a column of this name."""


class SignalList(View):
    """All signals."""

    items: list[SignalView]
    next: str | None = None


def router() -> APIRouter:
    """Return the route about signals."""
    routes = APIRouter()

    @routes.get("/v1/signals", tags=["control plane"])
    async def list_signals() -> SignalList:
        """Every signal that is tracked for streams, with its unit and meaning."""
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
