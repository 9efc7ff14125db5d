"""What acceptance tests have in common: a real server, its scripted model, and short ways to talk to it."""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import httpx

from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

WAIT_SECONDS = 30.0
"""The bound of every wait: it is reached only when a test fails."""
Frame = tuple[str, dict[str, Any]]


def model_config(upstream: Upstream) -> str:
    """The part of a configuration that makes the upstream the model `scripted`."""
    return f'[models.scripted]\nprovider = "openai_compatible"\nmodel = "m"\nbase_url = "{upstream.base_url}"\n'


def lambdas(*names: str) -> dict[str, Any]:
    """Tool configurations for functions of the server, each under its own name."""
    return {name: {"type": "lambda"} for name in names}


def instructions(template: str) -> dict[str, Any]:
    """A first step with one instruction."""
    return {"instructions": [{"type": "inline", "name": "main", "template": template}]}


def types(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, in order."""
    return [event["type"] for event in events]


def frame_types(frames: list[Frame]) -> list[str]:
    """The types of frames in order, runs of the same type as one."""
    return [name for name, _ in groupby(name for name, _ in frames)]


def text_of(frames: list[Frame]) -> str:
    """All that was said in deltas."""
    return "".join(data["content"] for name, data in frames if name == "streaming_agent_output")


async def eventually(probe: Callable[[], Awaitable[Any]]) -> Any:
    """Ask until the answer is true, and return it. Raises TimeoutError."""
    deadline = asyncio.get_running_loop().time() + WAIT_SECONDS
    while not (answer := await probe()):
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError
        await asyncio.sleep(0.01)
    return answer


@dataclass
class EventStream:
    """A streamed answer that is read frame by frame. `text` is all that came so far, as it came."""

    response: httpx.Response
    text: str = ""
    comments: int = 0
    frames: list[Frame] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._frames = self._read()

    async def next(self) -> Frame:
        """The next frame. Raises StopAsyncIteration at the end."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await anext(self._frames)

    async def until(self, name: str) -> dict[str, Any]:
        """Read on to the first frame of this type."""
        while True:
            found, data = await self.next()
            if found == name:
                return data

    async def rest(self) -> list[Frame]:
        """Read to the end and return all frames, the first ones too."""
        try:
            while True:
                await self.next()
        except StopAsyncIteration:
            return self.frames

    async def _read(self) -> AsyncIterator[Frame]:
        name = data = ""
        async for line in self._lines():
            if line.startswith(":"):
                self.comments += 1
            elif line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                data = line.removeprefix("data: ")
            elif line == "":
                frame = (name, json.loads(data))
                self.frames.append(frame)
                yield frame
                name = data = ""
            else:
                raise AssertionError(f"not a line of such a stream: {line!r}")

    async def _lines(self) -> AsyncIterator[str]:
        left = ""
        async for chunk in self.response.aiter_text():
            self.text += chunk
            *lines, left = (left + chunk).split("\n")
            for line in lines:
                yield line


@dataclass
class Stage:
    """A running server, its model and a client with the owner key. Sessions are named by their path."""

    server: ServerProcess
    upstream: Upstream
    client: httpx.AsyncClient

    async def agent(self, **fields: Any) -> str:
        """Create an agent and return its key."""
        key = f"agt_{secrets.token_hex(6)}"
        body = {"key": key, "name": "Support", "model": {"name": "scripted"}, **fields}
        answer = await self.client.post("/v2/agents", json=body)
        assert answer.status_code == 201, answer.text
        return key

    async def session(self, agent: str, **fields: Any) -> str:
        """Create a session and return its path."""
        answer = await self.client.post(f"/v2/agents/{agent}/sessions", json=fields)
        assert answer.status_code == 201, answer.text
        return f"/v2/agents/{agent}/sessions/{answer.json()['key']}"

    async def conversation(self, **fields: Any) -> str:
        """Create an agent and a session of it, and return the path of the session."""
        return await self.session(await self.agent(**fields))

    async def post(self, session: str, content: str = "Hello.", headers: Mapping[str, str] | None = None) -> Any:
        """Post an input and return the whole answer as JSON."""
        answer = await self.client.post(f"{session}/events", json={"content": content}, headers=headers)
        assert answer.status_code == 201, answer.text
        return answer.json()

    @asynccontextmanager
    async def stream(
        self, session: str, content: str = "Hello.", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[EventStream]:
        """Post an input and read the answer as a stream."""
        body = {"content": content, "stream_response": True}
        async with self.client.stream("POST", f"{session}/events", json=body, headers=headers) as response:
            assert response.status_code == 201
            assert response.headers["content-type"].startswith("text/event-stream")
            yield EventStream(response)

    async def get(self, path: str, **params: Any) -> Any:
        """GET something that is there."""
        answer = await self.client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def log(self, session: str, **params: Any) -> list[dict[str, Any]]:
        """The events of a session, oldest first."""
        events: list[dict[str, Any]] = (await self.get(f"{session}/events", limit=100, **params))["events"]
        return events

    async def stopped(self, session: str) -> Any:
        """The session, once it does not run any more."""

        async def probe() -> Any:
            shown = await self.get(session)
            return shown if shown["status"] == "stopped" else None

        return await eventually(probe)

    def defects(self) -> list[str]:
        """Lines of the server's log with a traceback that no tool of a test has raised."""
        lines = [line for line in self.server.stderr.splitlines() if '"event":"tool_failed"' not in line]
        return [line for line in lines if '"exception"' in line or "Traceback" in line]


def refused(answer: httpx.Response, status: int, code: str, *fields: str) -> dict[str, Any]:
    """Check an error answer and the names in its `field_errors`; returns the body."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert body["messages"], body
    assert all(body["messages"]), body
    assert body["request_id"] == answer.headers["x-request-id"]
    assert sorted(body.get("field_errors", {})) == sorted(fields), body
    return body
