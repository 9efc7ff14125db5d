"""A Model in the process that plays scripts, and a Models port that holds it. For tests; never shipped in a server."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from sessile.domain.messages import ToolCall
from sessile.models.openai_faults import protocol_fault, status_fault
from sessile.models.openai_wire import without_surrogates
from sessile.ports import Model, ModelChunk, ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.testing import script
from sessile.testing.script import Step

Decide = Callable[[ModelRequest], Sequence[Step]]
WAIT_SECONDS = 30.0
"""How long a test waits for something that should happen, before it is told that it did not."""


class ModelCall:
    """One call of a scripted model. `closed` is set when its reader went away before the end."""

    def __init__(self, request: ModelRequest) -> None:
        self.request = request
        self.closed = asyncio.Event()
        self.ended = asyncio.Event()


class ScriptedModel:
    """A Model whose answers are scripts, taken from a queue or decided for each request.

    `add(*steps)` puts one answer into the queue. A call that finds no script is rejected.
    """

    def __init__(self, decide: Decide | None = None, *, name: str = "scripted", context_window: int = 128_000) -> None:
        self.calls: list[ModelCall] = []
        """Every call in order."""
        self._name = name
        self._context_window = context_window
        self._decide = decide
        self._answers: deque[Sequence[Step]] = deque()
        self._arrival = asyncio.Condition()

    @property
    def name(self) -> str:
        """The name agents use."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens the model can read and write in one call."""
        return self._context_window

    def add(self, *steps: Step) -> "ScriptedModel":
        """Put an answer into the queue."""
        self._answers.append(steps)
        return self

    async def arrived(self, number: int) -> ModelCall:
        """The call with this number, counted from 1, as soon as it has come. Raises TimeoutError."""
        async with asyncio.timeout(WAIT_SECONDS), self._arrival:
            await self._arrival.wait_for(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Play a script. Raises ModelFault where the script says so."""
        model_call = ModelCall(request)
        self.calls.append(model_call)
        async with self._arrival:
            self._arrival.notify_all()
        finished = False
        try:
            async with aclosing(self._play(self._script(request), len(self.calls))) as chunks:
                async for chunk in chunks:
                    yield chunk
            finished = True
        except ModelFault:
            finished = True
            raise
        finally:
            if not finished:
                model_call.closed.set()
            model_call.ended.set()

    def _script(self, request: ModelRequest) -> Sequence[Step]:
        if self._decide is not None:
            return self._decide(request)
        if not self._answers:
            raise ModelFault("model_rejected", "No script is left for this call.", retryable=False)
        return self._answers.popleft()

    async def _play(self, steps: Sequence[Step], number: int) -> AsyncGenerator[ModelChunk, None]:
        last: list[ToolCall | ModelUsage] = []
        used: ModelUsage | None = None
        for step in steps:
            match step:
                case script.Think(pieces):
                    for piece in pieces:
                        yield ThinkingDelta(without_surrogates(piece))
                case script.Say(pieces):
                    for piece in pieces:
                        yield TextDelta(without_surrogates(piece))
                case script.Call(tool, arguments, id):
                    last.append(ToolCall(id or f"call_{number}_{len(last) + 1}", tool, arguments or "{}"))
                case script.ReportUsage(usage):
                    used = usage
                case script.Finish(reason, done):
                    if reason is None and not done:
                        raise protocol_fault("The scripted answer ended in the middle.", retryable=True)
                    break
                case _:
                    await _do(step)
        for chunk in last:
            yield chunk
        if used is not None:
            yield used


class ScriptedModels:
    """A Models port that has one model under every name."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def get(self, name: str) -> Model:
        """The one model."""
        return self._model

    async def close(self) -> None:
        """Nothing is open."""


async def _do(step: Step) -> None:
    """Carry out a step that yields nothing. Raises ModelFault."""
    match step:
        case script.WaitFor(event):
            await event.wait()
        case script.Sleep(seconds):
            await asyncio.sleep(seconds)
        case script.Hang():
            await asyncio.get_running_loop().create_future()
        case script.Status(code, body, headers):
            raise status_fault(code, body, headers)
        case script.Break():
            raise ModelFault("model_unavailable", "The scripted connection broke.", retryable=True)
        case script.Fail(fault):
            raise fault
        case _:
            raise ValueError(f"a scripted model cannot play {step!r}")
