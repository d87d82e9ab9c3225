"""Texts from clients: which of them every database can store, and how the others are escaped."""


def storable(text: str) -> bool:
    r"""Return whether every database can store a text: PostgreSQL refuses NUL, and UTF-8 has no lone surrogates.

    Example:
        >>> storable("r-1"), storable("r\0"), storable("\ud800")
        (True, False, False)
    """
    return "\0" not in text and (text.isascii() or _encodes(text))


def as_storable(text: str) -> str:
    r"""Return a text in which NUL and lone surrogates are escaped.

    Example:
        >>> as_storable("GET /\0 é \ud800")
        'GET /\\x00 é \\ud800'
    """
    return text if storable(text) else text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
