"""Followers of busy sessions, in a process of their own: a Spec as JSON on standard input, a Report on standard output.

Each reads its event stream to the end of its turns and knows in the end what it has seen: a digest of the durable
events, and whether the deltas of each output were its text. Deltas hold the monotonic time when the model gave them.
"""

import asyncio
import hashlib
import socket
import sys
import time
from typing import Any, cast

import msgspec
import uvloop
from msgspec import Struct

from benchmarks.load import quantile

_SLOW_BYTES = 1024
_OPEN_AT_ONCE = 50


class Spec(Struct, kw_only=True):
    """Whom to follow: `followers`, spread over `paths`; with `slow`, one more of the first reads 1 KiB a second."""

    port: int
    paths: list[str]
    followers: int
    seconds: float
    headers: dict[str, str]
    turns: int = 1
    slow: bool = False


class Report(Struct, kw_only=True):
    """What came. `digests` are those of the durable events, for each path the different ones that its followers had."""

    digests: list[list[str]]
    deltas: int
    outputs: int
    wrong: list[str]
    p50_ms: float
    p99_ms: float
    cpu_share: float


class Delta(Struct):
    """The fields of a delta that are looked at."""

    content: str
    output_id: str
    offset: int


class Output(Struct):
    """The fields of an agent_output that are looked at."""

    content: str
    output_id: str


_delta = msgspec.json.Decoder(Delta).decode
_output = msgspec.json.Decoder(Output).decode


class Reader(asyncio.Protocol):
    """One follower. A server writes whole frames, so a frame begins after what HTTP puts between two chunks."""

    def __init__(self, request: bytes, turns: int) -> None:
        self.digest = hashlib.sha256()
        self.delays: list[float] = []
        self.outputs = 0
        self.wrong: list[str] = []
        loop = asyncio.get_running_loop()
        self.began: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._turns = turns
        self._texts: dict[str, str] = {}
        self._left = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        *blocks, self._left = (self._left + data).split(b"\n\n")
        for block in blocks:
            self._take(block, now)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection ended: {error}")

    def _take(self, block: bytes, now: int) -> None:
        _, found, rest = block.partition(b"event: ")
        if not found:
            return
        kind, _, data = rest.partition(b"\ndata: ")
        if b"id: aev_" in block:
            self.digest.update(data)
        if kind == b"streaming_agent_output":
            delta = _delta(data)
            before = self._texts.get(delta.output_id, "")
            if delta.offset != len(before):
                self.wrong.append(f"a delta at {delta.offset} after {len(before)} characters")
            self._texts[delta.output_id] = before + delta.content
            self.delays += [(now - int(stamp)) / 1e9 for stamp in delta.content.replace(".", "").split()]
        elif kind == b"agent_output":
            output = _output(data)
            self.outputs += 1
            if self._texts.pop(output.output_id, "") != output.content:
                self.wrong.append("deltas are not the text of their output")
        elif kind == b"session_state" and not self.began.done():
            self.began.set_result(None)
        elif kind == b"turn_ended":
            self._turns -= 1
            if not self._turns:
                self._end(None)

    def _end(self, wrong: str | None) -> None:
        if not self.ended.done():
            self.wrong += [wrong] if wrong else []
            self.ended.set_result(None)
            if not self.began.done():
                self.began.set_result(None)


async def _read_slowly(port: int, request: bytes) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SLOW_BYTES)
        connection.setblocking(False)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, request)
        while await loop.sock_recv(connection, _SLOW_BYTES):  # noqa: ASYNC110
            await asyncio.sleep(1)


async def run(spec: Spec) -> Report:
    """Connect everybody, say so on standard output, and read until all turns have ended."""
    loop = asyncio.get_running_loop()
    requests = [_request(spec, path) for path in spec.paths]
    readers: list[Reader] = []
    for number in range(spec.followers):
        request = requests[number % len(requests)]
        _, reader = await loop.create_connection(
            lambda request=request: Reader(request, spec.turns), "127.0.0.1", spec.port
        )
        readers.append(reader)
        if number % _OPEN_AT_ONCE == 0:
            await reader.began
    slow = asyncio.ensure_future(_read_slowly(spec.port, requests[0])) if spec.slow else None
    await asyncio.wait([reader.began for reader in readers])
    print("ready", flush=True)
    begun, spent = time.perf_counter(), time.process_time()
    _, late = await asyncio.wait([reader.ended for reader in readers], timeout=spec.seconds)
    share = (time.process_time() - spent) / (time.perf_counter() - begun)
    if slow is not None:
        slow.cancel()
    delays = [delay for reader in readers for delay in reader.delays]
    paths = range(len(spec.paths))
    return Report(
        digests=[sorted({reader.digest.hexdigest() for reader in readers[path :: len(spec.paths)]}) for path in paths],
        deltas=len(delays),
        outputs=sum(reader.outputs for reader in readers),
        wrong=[wrong for reader in readers for wrong in reader.wrong] + ["a follower saw no end"] * len(late),
        p50_ms=quantile(delays, 50),
        p99_ms=quantile(delays, 99),
        cpu_share=share,
    )


def _request(spec: Spec, path: str) -> bytes:
    shown: dict[str, Any] = {"host": f"127.0.0.1:{spec.port}", "accept": "text/event-stream"} | spec.headers
    lines = [f"GET {path}/events HTTP/1.1", *(f"{name}: {value}" for name, value in shown.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(msgspec.json.decode(sys.stdin.readline(), type=Spec)))
    print(msgspec.json.encode(found).decode(), flush=True)
