"""A model and tools that do nothing of themselves: a test moves each call step by step."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from sessile.domain.messages import UserMessage
from sessile.ports import ModelChunk, ModelFault, ModelRequest, ToolContext, ToolFault


class PuppetModel:
    """A Model whose open calls are known by their session: what an input says before its first slash."""

    name = "scripted"
    context_window = 128_000

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Queue[ModelChunk | ModelFault | None]] = {}
        self.heard: dict[str, list[str]] = {}
        """All inputs that the last call of a session was given."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        texts = [message.content for message in request.messages if isinstance(message, UserMessage)]
        heard = [line for text in texts for line in text.split("\n")]
        session = heard[-1].split("/")[0]
        assert session not in self.open, "the model is called twice at once for one session"
        steps = self.open[session] = asyncio.Queue()
        self.heard[session] = heard
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, ModelFault):
                    raise step
                yield step
        finally:
            del self.open[session]


class PuppetTool:
    """A Tool whose open calls are known by their argument `id`. `starts` counts them over all its lives."""

    description = "Waits to be told what came of it."

    def __init__(self, name: str, starts: Counter[str], *, idempotent: bool) -> None:
        self.name = name
        self.idempotent = idempotent
        self.parameters: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "string"}}}
        self.open: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._starts = starts

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        id = arguments["id"]
        self._starts[id] += 1
        self.open[id] = asyncio.get_running_loop().create_future()
        try:
            return await self.open[id]
        finally:
            del self.open[id]

    def end(self, id: str, code: str | None) -> None:
        """Let a call succeed, or fail with a code."""
        if code is None:
            self.open[id].set_result({"result": id})
        else:
            self.open[id].set_exception(ToolFault(code, "It did not work."))


class Puppets:
    """The model and the tools of one life of a server."""

    def __init__(self, starts: Counter[str]) -> None:
        self.model = PuppetModel()
        self.tools = {
            "once": PuppetTool("once", starts, idempotent=False),
            "again": PuppetTool("again", Counter(), idempotent=True),
        }

    def let_go(self) -> None:
        """Let all open calls succeed."""
        for steps in self.model.open.values():
            steps.put_nowait(None)
        for tool in self.tools.values():
            for id in list(tool.open):
                tool.end(id, None)
