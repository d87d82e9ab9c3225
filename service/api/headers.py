"""Request headers of the control plane, and the parameter by which a call is only checked."""

from typing import Annotated

from fastapi import Header, Query

from service.errors import UnfitError

IfMatch = Annotated[str | None, Header(alias="If-Match", description="The generation that the change is meant for.")]
DryRun = Annotated[bool, Query(description="Only check the call: nothing is changed, and refusals are the same.")]


def generation_of(if_match: str | None) -> int | None:
    """Return the generation that If-Match names (with or without quotes), or None if there is no such header.

    Raises:
        UnfitError: If it names no generation.

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
