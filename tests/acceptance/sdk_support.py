"""Taps under an httpx client: what stood on the wire below a client that only shows what it made of it."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
from msgspec import Struct


class Exchange(Struct):
    """One request, and the bytes of its answer as far as they were read."""

    method: str
    path: str
    status: int
    body: bytearray


class TappedTransport(httpx.HTTPTransport):
    """A transport that keeps every exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        exchange = _exchange(request, response)
        self.exchanges.append(exchange)
        response.stream = _TappedStream(response.stream, exchange.body)
        return response


class TappedAsyncTransport(httpx.AsyncHTTPTransport):
    """An asynchronous transport that keeps every exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        exchange = _exchange(request, response)
        self.exchanges.append(exchange)
        response.stream = _TappedAsyncStream(response.stream, exchange.body)
        return response


class _TappedStream(httpx.SyncByteStream):
    def __init__(self, stream: Any, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._kept.extend(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()


class _TappedAsyncStream(httpx.AsyncByteStream):
    def __init__(self, stream: Any, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._kept.extend(chunk)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


def frames(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    """Event name and JSON of each frame of an event stream, by the rules of the standard, apart from any client.

    A blank line ends a frame; a frame without data is one too many, and is an error here.
    """
    assert raw.endswith(b"\n\n"), "the last frame is not complete"
    result = []
    for block in raw.decode().removesuffix("\n\n").split("\n\n"):
        fields = [line.partition(":") for line in block.split("\n") if not line.startswith(":")]
        values = {name: value.removeprefix(" ") for name, _, value in fields}
        assert len(values) == len(fields), f"a field is given twice: {block!r}"
        result.append((values["event"], json.loads(values["data"])))
    return result


def heartbeats(raw: bytes) -> int:
    """The number of comment lines."""
    return sum(line.startswith(b":") for line in raw.split(b"\n"))


def _exchange(request: httpx.Request, response: httpx.Response) -> Exchange:
    return Exchange(request.method, request.url.path, response.status_code, bytearray())
