"""Extracts the files of a multipart form, within limits."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import MalformedError, TooLargeError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FILES, MAX_FIELDS = 1024, 16


@dataclass(slots=True)
class _Part:
    """The part being parsed."""

    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    disposition: bytes = b""
    data: list[bytes] | None = None  # None for a field that is not a file


class _Files:
    """Collects a form's files. The parser itself limits the headers of the parts."""

    def __init__(self) -> None:
        self.found: list[bytes] = []
        self._fields = 0
        self._part = _Part()

    def on_part_begin(self) -> None:
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.value += data[start:end]

    def on_header_end(self) -> None:
        part = self._part
        if part.name.lower() == b"content-disposition":
            part.disposition = bytes(part.value)
        part.name.clear()
        part.value.clear()

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._part.disposition)
        if b"filename" in options:
            self._part.data = []
        else:
            self._fields += 1
        if len(self.found) >= MAX_FILES or self._fields > MAX_FIELDS:
            raise TooLargeError(f"the form has more than {MAX_FILES} files or {MAX_FIELDS} fields")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.data is not None:
            self._part.data.append(data[start:end])

    def on_part_end(self) -> None:
        if self._part.data is not None:
            self.found.append(b"".join(self._part.data))


def form_files(body: bytes, content_type: str) -> list[bytes]:
    """Return the files of a form, in order.

    Raises:
        MalformedError: If it is not a multipart form, or has no file.
        TooLargeError: If it has too many files or fields.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise MalformedError("Content-Type is multipart/form-data without its boundary")
    files = _Files()
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end")
    try:
        callbacks = cast("MultipartCallbacks", {f"on_{name}": getattr(files, f"on_{name}") for name in names})
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise MalformedError(f"the body is no multipart form: {error}") from None
    if not files.found:
        raise MalformedError(
            "the form holds no file; expected one or more JPEG or PNG files, as in curl -F image=@a.jpg"
        )
    return files.found
