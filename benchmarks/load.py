"""The load generator, a process of its own: a Spec as JSON on standard input, a Result as JSON on standard output.

Each connection asks, waits for the whole answer, checks it, and asks again.
"""

import asyncio
import statistics
import sys
import time
from typing import Literal, cast

import msgspec
import uvloop
from msgspec import Struct, field

from benchmarks import responses

Kind = Literal["echo", "create", "turn", "stream", "paced", "get"]
_STATUS = {"echo": 200, "get": 200}
_CREATE_BODY = {"name": "A session of the benchmark", "metadata": {"end_user_id": "user_17", "channel": "web"}}
_TEXT = "What is the state of the order?"


class Spec(Struct, kw_only=True):
    """What to ask: for `seconds`, or `requests` times if that is given, over some connections."""

    kind: Kind
    port: int
    connections: int = 1
    seconds: float = 1.0
    requests: int = 0
    warm_up_seconds: float = 0.3
    headers: dict[str, str] = field(default_factory=dict)
    agent: str = ""
    session_keys: list[str] = field(default_factory=list)
    """The sessions for turns, used in order; without them each connection has its own, made before the clock starts."""
    sessions: int = 256
    """How many to make, for all connections together: enough that their histories stay short."""
    setup_turns: int = 0
    """Turns to run in a new session before it is read, for `get` without `path`."""
    path: str = ""
    items: int = 20


class Result(Struct, kw_only=True):
    """What came back, in the timed window only. `cpu_share` is this process's share of one core."""

    requests: int
    seconds: float
    rate: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    frames: int
    frame_rate: float
    errors: int
    first_error: str
    cpu_seconds: float
    cpu_share: float
    delta_p50_ms: float = 0.0
    delta_p99_ms: float = 0.0
    deltas: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection that asks one thing at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[responses.Response] | None = None
        self.response = responses.Response()
        self.first_byte = 0.0
        self.arrivals: list[tuple[int, int]] = []
        """For a paced stream: (length of the body so far, monotonic nanoseconds)."""
        self.stamp = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> "asyncio.Future[responses.Response]":
        """Send a request; the future is its whole answer."""
        assert self._transport is not None
        self.response = responses.Response()
        self.first_byte = 0.0
        self.arrivals.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        arrived = time.monotonic_ns() if self.stamp else 0
        done = self.response.feed(data)
        if not self.first_byte and self.response.body:
            self.first_byte = time.perf_counter()
        if self.stamp:
            self.arrivals.append((len(self.response.body), arrived))
        if done and self._answer is not None and not self._answer.done():
            self._answer.set_result(self.response)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionError("the server closed the connection"))

    def close(self) -> None:
        """Let go of the socket."""
        if self._transport is not None:
            self._transport.close()


class Load:
    """One run of a Spec."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._latencies: list[float] = []
        self._first_bytes: list[float] = []
        self._delays: list[float] = []
        self._frames = 0
        self._errors = 0
        self._first_error = ""
        self._timed_from = 0.0
        self._until = 0.0

    async def run(self) -> Result:
        """Set up, warm up, measure."""
        spec = self._spec
        loop = asyncio.get_running_loop()
        connections = [
            (await loop.create_connection(Connection, "127.0.0.1", spec.port))[1] for _ in range(spec.connections)
        ]
        requests = await self._prepare(connections)
        warm_up = 0.0 if spec.requests else spec.warm_up_seconds
        self._timed_from = time.perf_counter() + warm_up
        self._until = self._timed_from + (3600 if spec.requests else spec.seconds)
        cpu: list[float] = []
        loop.call_later(warm_up, lambda: cpu.append(time.process_time()))
        limit = warm_up + spec.seconds + 60
        asks = [
            self._ask_on(connection, requests[n :: spec.connections] or requests)
            for n, connection in enumerate(connections)
        ]
        await asyncio.wait_for(asyncio.gather(*asks), limit)
        seconds = time.perf_counter() - self._timed_from if spec.requests else spec.seconds
        spent = time.process_time() - (cpu[0] if cpu else 0.0)
        wall = time.perf_counter() - self._timed_from
        for connection in connections:
            connection.close()
        return self._result(seconds, spent, spent / wall)

    async def _prepare(self, connections: list[Connection]) -> list[bytes]:
        spec = self._spec
        sessions = f"/v2/agents/{spec.agent}/sessions"
        if spec.kind == "echo":
            return [self._post("/echo", {"type": "input_message", "content": _TEXT, "stream_response": False})]
        if spec.kind == "create":
            return [self._post(sessions, _CREATE_BODY)]
        if spec.kind == "get" and spec.path:
            return [self._request("GET", spec.path, b"")]
        if spec.session_keys:
            return [self._input(f"{sessions}/{key}") for key in spec.session_keys]
        keys = []
        for _ in range(1 if spec.kind == "get" else max(spec.sessions, spec.connections)):
            response = await connections[0].ask(self._post(sessions, _CREATE_BODY))
            keys.append(msgspec.json.decode(bytes(response.body))["key"])
        if spec.kind != "get":
            return [self._input(f"{sessions}/{key}") for key in keys]
        for _ in range(spec.setup_turns):
            await connections[0].ask(self._input(f"{sessions}/{keys[0]}"))
        return [self._request("GET", f"{sessions}/{keys[0]}/events?limit=20", b"")]

    def _input(self, session: str) -> bytes:
        streamed = self._spec.kind in ("stream", "paced")
        body = {"type": "input_message", "content": _TEXT, "stream_response": streamed}
        return self._post(f"{session}/events", body)

    def _post(self, path: str, body: object) -> bytes:
        return self._request("POST", path, msgspec.json.encode(body))

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        headers = {"host": f"127.0.0.1:{self._spec.port}", "content-type": "application/json"} | self._spec.headers
        if body:
            headers["content-length"] = str(len(body))
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def _ask_on(self, connection: Connection, requests: list[bytes]) -> None:
        spec = self._spec
        connection.stamp = spec.kind == "paced"
        number = 0
        while not spec.requests or number < spec.requests:
            start = time.perf_counter()
            if start >= self._until:
                return
            response = await connection.ask(requests[number % len(requests)])
            number += 1
            end = time.perf_counter()
            if not self._timed_from <= end <= self._until:
                continue
            wrong = self._check(response, connection)
            if wrong:
                self._errors += 1
                self._first_error = self._first_error or wrong
                if self._errors > 20:
                    return
                continue
            self._latencies.append(end - start)
            self._first_bytes.append(connection.first_byte - start)

    def _check(self, response: responses.Response, connection: Connection) -> str | None:
        """What is wrong with an answer, or None."""
        kind = self._spec.kind
        if response.status != _STATUS.get(kind, 201):
            return f"status {response.status}: {bytes(response.body[:300]).decode(errors='replace')}"
        if kind == "turn":
            return responses.check_turn(bytes(response.body))
        if kind == "get":
            return responses.check_page(bytes(response.body), self._spec.items)
        if kind in ("stream", "paced"):
            frames = responses.frames(bytes(response.body))
            self._frames += len(frames)
            wrong = responses.check_stream(frames, kind == "paced")
            if kind == "paced" and not wrong:
                self._delays += _delays(bytes(response.body), connection.arrivals)
            return wrong
        return None if response.body else "an empty body"

    def _result(self, seconds: float, cpu_seconds: float, cpu_share: float) -> Result:
        count = len(self._latencies)
        return Result(
            requests=count,
            seconds=seconds,
            rate=count / seconds,
            p50_ms=quantile(self._latencies, 50),
            p99_ms=quantile(self._latencies, 99),
            first_byte_p50_ms=quantile(self._first_bytes, 50),
            frames=self._frames,
            frame_rate=self._frames / seconds,
            errors=self._errors,
            first_error=self._first_error,
            cpu_seconds=cpu_seconds,
            cpu_share=cpu_share,
            delta_p50_ms=quantile(self._delays, 50),
            delta_p99_ms=quantile(self._delays, 99),
            deltas=len(self._delays),
        )


def _delays(body: bytes, arrivals: list[tuple[int, int]]) -> list[float]:
    """Seconds between a paced model giving a delta and the client having the whole frame of it."""
    delays = []
    waiting = iter(arrivals)
    length, arrived = next(waiting)
    end = 0
    for block in body.split(b"\n\n")[:-1]:
        end += len(block) + 2
        while length < end:
            length, arrived = next(waiting)
        if b'"streaming_agent_output"' in block:
            (frame,) = responses.frames(block + b"\n\n")
            delays.append((arrived - int(frame.content)) / 1e9)
    return delays


def quantile(seconds: list[float], percent: int) -> float:
    """Milliseconds."""
    if len(seconds) < 2:
        return seconds[0] * 1e3 if seconds else 0.0
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1e3


if __name__ == "__main__":
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(Load(spec).run())))
