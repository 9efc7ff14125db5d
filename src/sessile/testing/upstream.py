"""A scripted, real HTTP server that speaks the OpenAI-compatible chat wire. For tests; it never thinks."""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from sessile.ports import ModelUsage
from sessile.testing import script
from sessile.testing.script import Step

WAIT_SECONDS = 30.0
"""How long a test waits for something that should happen, before it is told that it did not."""
MAX_REQUEST_BYTES = 64 * 1024 * 1024


class Received:
    """One request. `disconnected` is set when the client went away before the end of the answer."""

    def __init__(self, number: int, body: dict[str, Any], headers: Mapping[str, str]) -> None:
        self.number = number
        self.body = body
        self.headers = headers
        self.disconnected = asyncio.Event()
        self.ended = asyncio.Event()
        self.steps_done = 0
        """Steps played so far; at a disconnect it tells how far the answer had come."""
        self.port = 0
        """The client's port: the same one for requests on one connection."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent."""
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    async def gone(self) -> None:
        """Wait until the client has gone away in the middle of the answer. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS):
            await self.disconnected.wait()


Decide = Callable[[Received], Sequence[Step]]


class Upstream:
    """`async with Upstream() as upstream`: a server on a free port of 127.0.0.1, at `upstream.base_url`.

    Answers are scripts: from the queue that `add(*steps)` fills, or from `decide(request)`. A request that finds no
    script gets HTTP 400. An answer without `finish`, `raw` or `break_connection` ends by itself as the wire demands.
    """

    def __init__(self, decide: Decide | None = None) -> None:
        self.requests: list[Received] = []
        """Every request in order."""
        self.base_url = ""
        self._decide = decide
        self._answers: deque[Sequence[Step]] = deque()
        self._arrival = asyncio.Condition()
        self._stopping = False
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        await self._runner.cleanup()

    def add(self, *steps: Step) -> "Upstream":
        """Put an answer into the queue."""
        self._answers.append(steps)
        return self

    def reset(self) -> None:
        """Forget all requests and all answers in the queue: the next request has the number 1."""
        self.requests.clear()
        self._answers.clear()

    async def arrived(self, number: int) -> Received:
        """The request with this number, counted from 1, as soon as it has come. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS), self._arrival:
            await self._arrival.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        received = Received(len(self.requests) + 1, await request.json(), dict(request.headers))
        peer = request.get_extra_info("peername")
        received.port = peer[1] if peer else 0
        self.requests.append(received)
        async with self._arrival:
            self._arrival.notify_all()
        player = _Player(request, received)
        try:
            return await player.play(self._script(received))
        except (asyncio.CancelledError, ConnectionResetError):
            if not (self._stopping or player.broke):
                received.disconnected.set()
            raise
        finally:
            received.ended.set()

    def _script(self, received: Received) -> Sequence[Step]:
        if self._decide is not None:
            return self._decide(received)
        if not self._answers:
            return [script.status(400, {"error": {"message": "No script is left for this request."}})]
        return self._answers.popleft()


class _Player:
    """Plays one script as the answer to one request. The head of the answer goes out with its first byte."""

    def __init__(self, request: web.Request, received: Received) -> None:
        self._request = request
        self._received = received
        self._response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._calls = 0
        self._usage: ModelUsage | None = None
        self._ended = False
        self.broke = False
        """Whether the script cut the connection."""

    async def play(self, steps: Sequence[Step]) -> web.StreamResponse:
        for step in steps:
            if isinstance(step, script.Status):
                return web.Response(status=step.code, body=step.body, headers=step.headers)
            await self._step(step)
            self._received.steps_done += 1
        if not self._ended:
            await self._finish("tool_calls" if self._calls else "stop", done=True)
        await self._open()
        await self._response.write_eof()
        return self._response

    async def _step(self, step: Step) -> None:
        match step:
            case script.Think(pieces):
                for piece in pieces:
                    await self._delta({"reasoning_content": piece})
            case script.Say(pieces):
                for piece in pieces:
                    await self._delta({"content": piece})
            case script.Call():
                await self._call(step)
            case script.ReportUsage(usage):
                self._usage = usage
            case script.Finish(reason, done):
                await self._finish(reason, done=done)
            case script.WaitFor(event):
                await event.wait()
            case script.Sleep(seconds):
                await asyncio.sleep(seconds)
            case script.Hang():
                await asyncio.get_running_loop().create_future()
            case script.Break():
                await self._break()
            case script.Raw(data):
                self._ended = True
                await self._write(data)
            case _:
                raise ValueError(f"an upstream cannot play {step!r}")

    async def _open(self) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)

    async def _write(self, data: bytes) -> None:
        await self._open()
        await self._response.write(data)

    async def _event(self, event: dict[str, Any]) -> None:
        head = {"id": f"chatcmpl-{self._received.number}", "object": "chat.completion.chunk", "created": 0}
        chunk = {**head, "model": self._received.body.get("model"), **event}
        await self._write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    async def _delta(self, delta: dict[str, Any], reason: str | None = None) -> None:
        await self._event({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    async def _call(self, step: script.Call) -> None:
        """The head of the call, then its arguments in two fragments."""
        index = self._calls
        self._calls += 1
        id = step.id or f"call_{self._received.number}_{self._calls}"
        function = {"name": step.tool, "arguments": ""}
        await self._delta({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
        middle = len(step.arguments) // 2
        for fragment in (step.arguments[:middle], step.arguments[middle:]):
            if fragment:
                await self._delta({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})

    async def _finish(self, reason: str | None, *, done: bool) -> None:
        self._ended = True
        if reason is not None:
            await self._delta({}, reason)
        if self._usage is not None:
            await self._event({"choices": [], "usage": _usage_object(self._usage)})
        if done:
            await self._write(b"data: [DONE]\n\n")

    async def _break(self) -> None:
        self.broke = True
        transport = self._request.transport
        if transport is not None:
            # Not abort(): what was written before must reach the client.
            transport.close()
        raise ConnectionResetError("the script broke the connection")


def _usage_object(usage: ModelUsage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
