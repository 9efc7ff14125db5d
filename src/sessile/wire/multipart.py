"""multipart/form-data (RFC 7578): bytes in, parts out, piece by piece. It waits for nothing and keeps no content."""

import re
from typing import Any

from msgspec import Struct
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from sessile.wire.errors import InvalidMultipart

MEDIA_TYPE = "multipart/form-data"
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PLAIN_ENCODINGS = (b"binary", b"7bit", b"8bit")


class PartBegin(Struct, frozen=True):
    """A part starts. File name and type are what the sender says."""

    name: str
    filename: str | None
    content_type: str | None


class PartEnd(Struct, frozen=True):
    """The part is complete."""


Step = PartBegin | bytes | PartEnd
"""What happens in a body: a part starts, goes on with these bytes, ends."""


class MultipartReader:
    """Reads one body. Its headers are bounded by the parser: eight a part, of four KiB each."""

    def __init__(self, content_type: bytes) -> None:
        """Raises InvalidMultipart for a Content-Type without a boundary."""
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise InvalidMultipart("The Content-Type has no boundary of 1 to 70 characters.")
        self._complete = False
        self._steps: list[Step] = []
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._parser = MultipartParser(boundary, self._callbacks())

    def feed(self, data: bytes) -> list[Step]:
        """What these bytes bring. Raises InvalidMultipart."""
        try:
            self._parser.write(data)
        except MultipartParseError as error:
            reason = str(error).rstrip(".")[:200].encode("ascii", "backslashreplace").decode()
            raise InvalidMultipart(f"The body is not valid multipart/form-data: {reason}.") from None
        steps, self._steps = self._steps, []
        return steps

    def close(self) -> None:
        """There is no more. Raises InvalidMultipart when the body is cut off."""
        if not self._complete:
            raise InvalidMultipart("The body ends before its last boundary.")

    def _callbacks(self) -> Any:
        return {
            "on_header_field": self._on_name,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers,
            "on_part_data": lambda data, start, end: self._steps.append(bytes(data[start:end])),
            "on_part_end": lambda: self._steps.append(PartEnd()),
            "on_end": self._on_end,
        }

    def _on_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def _on_headers(self) -> None:
        headers, self._headers = self._headers, {}
        disposition, options = parse_options_header(headers.get(b"content-disposition", b""))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidMultipart("A part has no Content-Disposition of form-data with a name.")
        if headers.get(b"content-transfer-encoding", b"binary").strip().lower() not in _PLAIN_ENCODINGS:
            raise InvalidMultipart("A part has a Content-Transfer-Encoding, which multipart/form-data does not have.")
        filename, declared = options.get(b"filename"), headers.get(b"content-type")
        self._steps.append(
            PartBegin(
                options[b"name"].decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
                None if declared is None else declared.decode("latin-1"),
            )
        )

    def _on_end(self) -> None:
        self._complete = True


def is_multipart(content_type: bytes) -> bool:
    """Whether a Content-Type says multipart/form-data."""
    return content_type.partition(b";")[0].strip().lower() == MEDIA_TYPE.encode()
