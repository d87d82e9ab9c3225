"""The client's exceptions, with the server's own messages."""


class RefusedError(Exception):
    """The server refused a call.

    Attributes:
        status: The HTTP status; None if no server answered.
        retry_after_seconds: The server's Retry-After header; None if it sent none.
    """

    def __init__(self, message: str, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(RefusedError):
    """No server answers, or the connection was lost."""
