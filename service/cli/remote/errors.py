"""What makes a command impossible before any server is asked."""


class MistakeError(Exception):
    """A command cannot be done as it was given; the message says what would be right."""
