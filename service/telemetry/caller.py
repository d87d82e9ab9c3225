"""Who calls: known while a request is handled, in whatever task or thread that is."""

from contextvars import ContextVar

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The key's name, or the client's address where there are no keys; "" for the server itself."""
