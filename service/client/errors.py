"""What a client raises: the server's refusals, in the server's own words."""


class RefusedError(Exception):
    """The server refused a call.

    Attributes:
        status: The HTTP status; None where no server answered.
        retry_after_seconds: When the server says to try again; None where it does not say so.
    """

    def __init__(self, said: str, status: int | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(said)
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class UnreachableError(RefusedError):
    """No server answers, or the connection was lost."""
