"""`acclimate streams watch`: prints a line whenever a stream has changed, as vmstat does for a machine."""

import time
from collections.abc import Callable, Iterator

from rich.text import Text

from service.cli.output.formatting import figure, share, size
from service.client import Client, StreamView

HEADINGS = f"{'time':8}  {'generation':>10}  {'entropy':>7}  {'':16}  {'drift':>6}  {'agreement':>9}  {'size':>8}"
BAR = 16
BAR_NATS = 2.0
"""Entropy in nats at which the bar is full."""


def moves(
    client: Client, stream_id: str, every_seconds: float, pause: Callable[[float], None] = time.sleep
) -> Iterator[StreamView]:
    """Yield a stream now, and again whenever its generation, mode, adapter or time of use has changed."""
    last = None
    while True:
        stream = client.stream(stream_id)
        seen = (stream.generation, stream.mode, stream.adapter, stream.last_used)
        if seen != last:
            last = seen
            yield stream
        pause(every_seconds)


def line(stream: StreamView, now: float) -> Text:
    """Return a stream's figures on one line."""
    signals = stream.signals
    entropy = signals.get("entropy")
    filled = round(BAR * min(1.0, (entropy or 0.0) / BAR_NATS))
    said = Text(f"{time.strftime('%H:%M:%S', time.localtime(now))}  ", style="dim")
    said.append(f"{stream.generation:>10}  {figure(entropy, 2):>7}  ", style="not dim")
    said.append("█" * filled, style="blue not dim").append("░" * (BAR - filled))
    said.append(f"  {figure(signals.get('drift')):>6}  {share(signals.get('source_agreement')):>9}", style="not dim")
    return said.append(f"  {size(stream.state_bytes):>8}", style="not dim")
