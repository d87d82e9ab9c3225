"""What the server refuses, and why; api/problems.py alone knows the HTTP codes.

ServiceError
├── MalformedError        not of the form that was expected
├── UnauthenticatedError  no key, or an unknown one
├── ForbiddenError        a key without the scope; a foreign host or origin
├── UnknownError          no such model, stream or snapshot
├── ConflictError         the same request id with another body; a stream of another model; a name taken
├── MovedOnError          the stream's generation is not the one expected
├── TooLargeError         bytes, images or pixels beyond a limit
├── UnsupportedError      a content type or datatype that is not served
├── UnfitError            well-formed, but not for this model, spec or stream
├── BusyError             this stream or client sends too much; try again later
├── SaturatedError        the server is full, starting or draining; try again later
├── DeadlineError         not answered in time
├── StoreFullError        a snapshot could not be kept; the state in memory stays
├── StoreDownError        the database or the object store does not answer; try again later
├── FencedError           another process has taken the stream over
├── FailedError           the work itself failed: a fault of the model or of ours
├── BundleError           a folder that cannot be served as a model
└── SettingsError         settings under which the server refuses to start
"""


class ServiceError(Exception):
    """Any refusal of the server; the message says what was given and what was expected."""


class MalformedError(ServiceError):
    """Not of the form that was expected."""


class UnauthenticatedError(ServiceError):
    """No key was given, or one that is not known."""


class ForbiddenError(ServiceError):
    """The key lacks the scope, or the request comes from a foreign host or origin."""


class UnknownError(ServiceError):
    """There is no such model, stream or snapshot."""


class ConflictError(ServiceError):
    """Another request, model or owner has taken the place."""


class MovedOnError(ServiceError):
    """The stream's generation is not the one expected."""


class TooLargeError(ServiceError):
    """Bytes, images or pixels go beyond a limit."""


class UnsupportedError(ServiceError):
    """A content type or datatype that is not served."""


class UnfitError(ServiceError):
    """Well-formed, but unfit for this model, spec or stream."""


class BusyError(ServiceError):
    """This stream or client sends more than it may; after so many seconds it may send again."""

    def __init__(self, said: str, seconds: float = 1.0) -> None:
        super().__init__(said)
        self.seconds = seconds


class SaturatedError(ServiceError):
    """The server cannot take more now: full, starting or draining."""


class DeadlineError(ServiceError):
    """The answer did not come in time."""


class StoreFullError(ServiceError):
    """A snapshot could not be kept; the state in memory stays."""


class StoreDownError(ServiceError):
    """The database or the object store does not answer; nothing was changed."""


class FencedError(ServiceError):
    """Another process has taken the stream over; this one has let it go."""


class FailedError(ServiceError):
    """The work itself failed: a fault of the model or of ours; the log says which."""


class BundleError(ServiceError):
    """A folder cannot be served as a model."""


class SettingsError(ServiceError):
    """The server refuses to start under these settings."""
