"""Errors that a command finds without a server."""


class MistakeError(Exception):
    """A command is wrong as given; the message names the right form."""
