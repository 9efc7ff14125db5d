"""Files that a caller sends: the body of a multipart/form-data request, read from the disk as it goes out."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from sessile.client.documents import Content

File = str | Path | tuple[str, bytes]
"""A file to send: its path, or a name and the bytes."""
_PIECE = 256 * 1024


class Upload:
    """The body of an input with files. It can be sent any number of times."""

    def __init__(self, content: Content, files: Sequence[File], fields: dict[str, Any]) -> None:
        """Raises OSError for a file that cannot be read."""
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._boundary = boundary.encode()
        texts = {name: _plain(value) for name, value in fields.items() if value is not None}
        if isinstance(content, str):
            texts |= {"message": content} if content else {}
        elif content:
            texts["messages"] = json.dumps(list(content))
        self._texts = texts
        self._files = [_opened(file) for file in files]
        self.size = sum(_size(source) for _, source in self._files)

    async def body(self) -> AsyncIterator[bytes]:
        """All of it, in pieces."""
        for name, text in self._texts.items():
            yield self._head(f'name="{name}"') + text.encode("utf-8", "replace") + b"\r\n"
        for name, source in self._files:
            yield self._head(f'name="files"; filename="{_quoted(name)}"', "application/octet-stream")
            if isinstance(source, bytes):
                yield source
            else:
                async for piece in _pieces(source):
                    yield piece
            yield b"\r\n"
        yield b"--" + self._boundary + b"--\r\n"

    def _head(self, disposition: str, content_type: str | None = None) -> bytes:
        kind = f"\r\nContent-Type: {content_type}" if content_type else ""
        return f"--{self._boundary.decode()}\r\nContent-Disposition: form-data; {disposition}{kind}\r\n\r\n".encode()


def _opened(file: File) -> tuple[str, Path | bytes]:
    if isinstance(file, tuple):
        return file
    path = Path(file)
    with path.open("rb"):  # what cannot be read is refused here, not in the middle of a request
        return path.name, path


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while piece := await asyncio.to_thread(file.read, _PIECE):
            yield piece


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(name: str) -> str:
    """Without what would end it; a server takes these characters for no part of a name either."""
    clean = name.encode("utf-8", "replace").decode()
    return "".join("_" if one in '"\r\n\0' else one for one in clean)
