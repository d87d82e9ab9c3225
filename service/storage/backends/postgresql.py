"""PostgreSQL connections. One whose peer is gone ends in about the time that a store call may take."""

import math

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import URL

CONNECT_SECONDS = 5
"""Time limit for opening a connection."""
PROBES = 3
"""Keepalive probes without a reply until an idle connection is closed."""
MOST_MILLISECONDS, MOST_KEEPALIVE_SECONDS = 2**31 - 1, 32_767
"""The largest values that libpq and Linux accept."""


def open_engine(url: URL, store_seconds: float) -> Engine:
    """Return an engine. Options in the URL's query override the limits set here.

    Args:
        url: A `postgresql` URL.
        store_seconds: Seconds that a store call may take.
    """
    limits = {name: value for name, value in _limits(store_seconds).items() if name not in url.query}
    return create_engine(url, pool_pre_ping=True, connect_args=limits)


def _limits(store_seconds: float) -> dict[str, int]:
    """Return libpq's limits: half of the time passes in silence, then keepalive probes fill the other half."""
    return {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": math.ceil(min(1000 * store_seconds, MOST_MILLISECONDS)),
        "keepalives": 1,
        "keepalives_idle": _keepalive(store_seconds / 2),
        "keepalives_interval": _keepalive(store_seconds / 2 / PROBES),
        "keepalives_count": PROBES,
    }


def _keepalive(seconds: float) -> int:
    return math.ceil(min(seconds, MOST_KEEPALIVE_SECONDS))
