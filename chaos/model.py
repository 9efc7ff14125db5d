"""The stub model and the ear of the tools, in a process that is never killed. What they hear is the journal."""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

from aiohttp import web

from chaos.stand import Stand

DELTAS = 20
_DELTA_SECONDS = 0.003
TOOLS = '''
import os
import time
import urllib.request


def _tell(kind: str, token: str, what: str) -> None:
    url = f"{os.environ['CHAOS_EAR']}/tool?kind={kind}&token={token}&what={what}"
    with urllib.request.urlopen(url, timeout=30):
        pass


def once(token: str) -> str:
    """Do something that must not happen twice."""
    _tell("once", token, "start")
    time.sleep(0.02)
    _tell("once", token, "end")
    return f"did {token} once"


def again(token: str) -> str:
    """Do something that may happen twice."""
    _tell("again", token, "start")
    time.sleep(0.02)
    _tell("again", token, "end")
    return f"did {token} again"
'''


class Model:
    """Answers by what the last input says: `TOKEN`, or `TOKEN once` and `TOKEN again` for a tool call first."""

    def __init__(self) -> None:
        self.stand: Stand | None = None
        self.calls = 0
        self.starts: Counter[tuple[str, str]] = Counter()
        """How often a tool was started, by kind and token."""
        self._runner: web.AppRunner | None = None

    async def start(self) -> str:
        """Listen; returns the base URL. Each server has a path of its own below it, its name."""
        app = web.Application()
        app.router.add_post("/{node}/v1/chat/completions", self._complete)
        app.router.add_get("/{node}/tool", self._tool)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        return f"http://127.0.0.1:{port}"

    async def end(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _tool(self, request: web.Request) -> web.Response:
        if request.query["what"] == "start":
            self.starts[request.query["kind"], request.query["token"]] += 1
            self._moment("tool running", request)
        return web.Response()

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        messages = (await request.json())["messages"]
        last = max(place for place, message in enumerate(messages) if message["role"] == "user")
        token, _, tool = messages[last]["content"].partition(" ")
        answered = any(message["role"] == "tool" for message in messages[last:])
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # the server was killed
            await self._play(request, response, token, None if answered else tool)
        return response

    async def _play(self, request: web.Request, response: web.StreamResponse, token: str, tool: str | None) -> None:
        for number in range(DELTAS):
            await self._send(response, {"content": f"{token}:{number} "})
            if number == DELTAS // 2:
                self._moment("mid-delta", request)
            await asyncio.sleep(_DELTA_SECONDS)
        if tool:
            function = {"name": tool, "arguments": json.dumps({"token": token})}
            await self._send(response, {"tool_calls": [{"index": 0, "id": f"call_{token}", "function": function}]})
        await self._send(response, {}, "tool_calls" if tool else "stop")
        await response.write(b"data: [DONE]\n\n")
        if not tool:
            self._moment("before end commit", request)

    async def _send(self, response: web.StreamResponse, delta: dict[str, Any], reason: str | None = None) -> None:
        chunk = {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
        await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _moment(self, phase: str, request: web.Request) -> None:
        if self.stand is not None:
            (node,) = (node for node in self.stand.nodes if node.name == request.match_info["node"])
            self.stand.moment(phase, node)
