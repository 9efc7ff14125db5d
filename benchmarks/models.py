"""Models that cost nothing: they run in the server's process and stand for a provider that answers at once."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

from sessile.config import ModelConfig
from sessile.ports import Model, ModelChunk, ModelRequest, ModelUsage, TextDelta

DELTAS = 100
DELTA_TEXT = "word "
PACED_DELTAS = 200
PACE_SECONDS = 0.004


class _Named:
    def __init__(self, name: str, context_window: int) -> None:
        self._name = name
        self._context_window = context_window

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_window(self) -> int:
        return self._context_window


class Instant(_Named):
    """One delta and its usage, at once."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        yield TextDelta("Noted.")
        yield ModelUsage(input_tokens=10, output_tokens=2)


class HundredDeltas(_Named):
    """A hundred deltas of five characters; the event loop turns once between two of them."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        for _ in range(DELTAS):
            yield TextDelta(DELTA_TEXT)
            await asyncio.sleep(0)
        yield ModelUsage(input_tokens=10, output_tokens=DELTAS)


class Paced(_Named):
    """Deltas at a steady pace; the text of each is the monotonic clock, in nanoseconds, when the model gave it."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        for _ in range(PACED_DELTAS):
            await asyncio.sleep(PACE_SECONDS)
            yield TextDelta(f"{time.monotonic_ns()} ")
        yield ModelUsage(input_tokens=10, output_tokens=PACED_DELTAS)


class Steady(_Named):
    """As `Paced`, as the agent's parameters say: how many deltas, at what pace, with how many dots after the clock.

    Each has its own time, so that the pace does not drift.
    """

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        deltas, pace, dots = (request.parameters[name] for name in ("deltas", "pace", "dots"))
        begun = time.monotonic()
        for number in range(deltas):
            await asyncio.sleep(max(0.0, begun + (number + 1) * pace - time.monotonic()))
            yield TextDelta(f"{time.monotonic_ns()}{'.' * dots} ")
        yield ModelUsage(input_tokens=10, output_tokens=deltas)


_MODELS: dict[str, Callable[[str, int], Model]] = {
    "instant": Instant,
    "hundred": HundredDeltas,
    "paced": Paced,
    "steady": Steady,
}


class Provider:
    """The provider `bench` of the benchmark's server: `model` in the configuration picks one of the above."""

    def model(self, name: str, config: ModelConfig) -> Model:
        return _MODELS[config.model or name](name, config.context_window or 128_000)

    async def close(self) -> None:
        """Nothing is open."""
