"""Texts from outside: which ones every store can hold, and how others are written down."""


def storable(text: str) -> bool:
    r"""Tell whether any database can hold a text: PostgreSQL takes no NUL, and no encoding takes lone surrogates.

    Example:
        >>> storable("r-1"), storable("r\0"), storable("\ud800")
        (True, False, False)
    """
    return "\0" not in text and (text.isascii() or _encodes(text))


def as_storable(text: str) -> str:
    r"""Return a text with escapes in the place of what a database cannot hold.

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
