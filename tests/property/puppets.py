"""A model and tools that do nothing of themselves: a test moves each call step by step."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from sessile.domain.messages import UserMessage
from sessile.ports import ModelChunk, ModelFault, ModelRequest, ToolFault


class PuppetModel:
    """A Model whose open calls are known by the last input that they answer."""

    name = "scripted"
    context_window = 128_000

    def __init__(self) -> None:
        self.open: dict[str, asyncio.Queue[ModelChunk | ModelFault | None]] = {}

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        said = [message.content for message in request.messages if isinstance(message, UserMessage)][-1]
        assert said not in self.open, "the model is called twice at once for one input"
        steps = self.open[said] = asyncio.Queue()
        try:
            while (step := await steps.get()) is not None:
                if isinstance(step, ModelFault):
                    raise step
                yield step
        finally:
            del self.open[said]


class PuppetTool:
    """A Tool whose open calls are known by their argument `id`."""

    description = "Waits to be told what came of it."

    def __init__(self, name: str, *, idempotent: bool) -> None:
        self.name = name
        self.idempotent = idempotent
        self.parameters: dict[str, Any] = {"type": "object", "properties": {"id": {"type": "string"}}}
        self.open: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self.starts: Counter[str] = Counter()

    async def run(self, arguments: dict[str, Any]) -> dict[str, Any]:
        id = arguments["id"]
        self.starts[id] += 1
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
