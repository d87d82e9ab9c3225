"""The request headers of the control plane, and its `dry_run` parameter."""

from typing import Annotated

from fastapi import Header, Query

from service.errors import UnfitError

IfMatch = Annotated[str | None, Header(alias="If-Match", description="The generation that the change is meant for.")]
DryRun = Annotated[bool, Query(description="Only check the call: nothing changes, and refusals are the same.")]


def generation_of(if_match: str | None) -> int | None:
    """Return the generation in If-Match (with or without quotes), or None for "*" or without the header.

    Raises:
        UnfitError: If it is not a generation.

    Example:
        >>> generation_of('"12"'), generation_of("12"), generation_of(None)
        (12, 12, None)
    """
    if if_match is None or if_match.strip() == "*":
        return None
    text = if_match.strip().strip('"')
    if not (text.isascii() and text.isdecimal()) or len(text) > 18:
        raise UnfitError(f"If-Match is {if_match[:100]!r}, expected a generation such as 12")
    return int(text)
