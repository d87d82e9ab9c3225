"""The dashboard's files: the page at /, the API's documentation at /docs, and their assets under /dashboard/."""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

from service.errors import SettingsError, UnknownError

PAGE, DOCS = "index.html", "docs.html"
MEDIA_TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".svg": "image/svg+xml",
    }
)
"""Media types of the files that are served. Files of other kinds in the folder, such as licences, are not."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
)


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file and its response headers."""

    content: bytes
    media_type: str
    etag: str


def router(folder: Path) -> APIRouter:
    """Return the routes of the dashboard in a folder. The folder is read once, so no path can leave it."""
    files = read_files(folder)
    routes = APIRouter(include_in_schema=False)

    # HEAD too, for monitors that only check that the page exists.
    routes.add_api_route("/", _served(files[PAGE]), methods=["GET", "HEAD"])
    if DOCS in files:
        routes.add_api_route("/docs", _served(files[DOCS]), methods=["GET", "HEAD"])

    @routes.api_route("/dashboard/{path:path}", methods=["GET", "HEAD"])
    async def file(path: str, request: Request) -> Response:
        """A file that the page loads."""
        if path not in files:
            raise UnknownError(f"the dashboard has no file {path[:200]!r}")
        return _answer(files[path], request)

    return routes


def _served(file: StaticFile) -> Callable[[Request], Awaitable[Response]]:
    async def page(request: Request) -> Response:
        """Answer with a file."""
        return _answer(file, request)

    return page


def read_files(folder: Path) -> dict[str, StaticFile]:
    """Read the files to serve, by their relative paths with slashes.

    Raises:
        SettingsError: If the folder has no page.
    """
    files = {
        path.relative_to(folder).as_posix(): _read(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES and path.is_file()
    }
    if PAGE not in files:
        raise SettingsError(f"{folder} holds no dashboard: {PAGE} is missing")
    return files


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    return StaticFile(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(file: StaticFile, request: Request) -> Response:
    """Return a file, or 304 to a browser that has the same version."""
    headers = {**HEADERS, "ETag": file.etag}
    if _matches(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _matches(if_none_match: str, etag: str) -> bool:
    """Return whether If-None-Match lists a tag. A proxy that compresses makes tags weak, so weak ones match too.

    Example:
        >>> _matches('"a", W/"b"', '"b"'), _matches("", '"b"')
        (True, False)
    """
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
