"""The server's errors. api/problems.py alone maps them to HTTP codes.

ServiceError
├── MalformedError        the request does not have the expected form
├── UnauthenticatedError  no key, or an unknown one
├── ForbiddenError        a key without the scope; a foreign host or origin
├── UnknownError          no such model, stream or snapshot
├── ConflictError         the same request id with another body; a stream of another model; a name in use
├── MovedOnError          the stream is at another generation than expected
├── TooLargeError         bytes, images or pixels beyond a limit
├── UnsupportedError      an unsupported content type or datatype
├── UnfitError            well-formed, but wrong for this model, spec or stream
├── BusyError             this stream or client sends too much; try again later
├── SaturatedError        the server is full, starting or draining; try again later
├── DeadlineError         no answer in time
├── StoreFullError        the store has no room, or cannot be written; the state in memory stays
├── StoreDownError        the database or the object store does not answer; try again later
├── FencedError           another process has taken the stream over
├── FailedError           the work itself failed: a fault of the model or of the server
├── BundleError           a folder that cannot be served as a model
└── SettingsError         settings that the server refuses to start with
"""


class ServiceError(Exception):
    """The server refuses; the message says what was given and what was expected."""


class MalformedError(ServiceError):
    """The request does not have the expected form."""


class UnauthenticatedError(ServiceError):
    """The request has no key, or an unknown one."""


class ForbiddenError(ServiceError):
    """The key lacks the scope, or the request comes from a foreign host or origin."""


class UnknownError(ServiceError):
    """There is no such model, stream or snapshot."""


class ConflictError(ServiceError):
    """Another request, model or owner is in the way."""


class MovedOnError(ServiceError):
    """The stream is at another generation than expected."""


class TooLargeError(ServiceError):
    """Bytes, images or pixels exceed a limit."""


class UnsupportedError(ServiceError):
    """The content type or datatype is not supported."""


class UnfitError(ServiceError):
    """The request is well-formed, but wrong for this model, spec or stream."""


class BusyError(ServiceError):
    """This stream or client sends too much. It may send again after `seconds`."""

    def __init__(self, message: str, seconds: float = 1.0) -> None:
        super().__init__(message)
        self.seconds = seconds


class SaturatedError(ServiceError):
    """The server takes no more requests now: it is full, starting or draining."""


class DeadlineError(ServiceError):
    """No answer came in time."""


class StoreFullError(ServiceError):
    """The store has no room, or cannot be written. The state in memory stays."""


class StoreDownError(ServiceError):
    """The database or the object store does not answer."""


class FencedError(ServiceError):
    """Another process has taken the stream over. This process drops it."""


class FailedError(ServiceError):
    """The work itself failed, by a fault of the model or of the server; the log has the details."""


class BundleError(ServiceError):
    """A folder cannot be served as a model."""


class SettingsError(ServiceError):
    """The server refuses to start with these settings."""
