"""The caller of the current request, as a context variable that tasks and threads inherit."""

from contextvars import ContextVar

CALLER: ContextVar[str] = ContextVar("caller", default="")
"""The name of the API key, or the client's address if there are no keys; "" for the server's own work."""
