"""A transport that plays a script, and a client over it that never really waits."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sessile.client.call import Caller
from sessile.client.transport import Request

JSON = {"content-type": "application/json"}
EVENTS = {"content-type": "text/event-stream; charset=utf-8", "x-turn-id": "trn_1", "x-event-id": "aev_1"}


class Reply:
    """An answer of the script. An exception among its chunks is raised where it stands."""

    def __init__(
        self, status: int = 200, body: Any = None, headers: Mapping[str, str] = JSON, chunks: Sequence[Any] = ()
    ) -> None:
        self.status = status
        self.headers = headers
        self.closed = 0
        encoded = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        self.script = list(chunks) or [encoded]

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self.script:
            if isinstance(chunk, BaseException):
                raise chunk
            yield chunk

    async def close(self) -> None:
        self.closed += 1


def refusal(status: int, code: str, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
    """An error answer of a Sessile server."""
    body = {"code": code, "messages": [f"{code} it is"], "request_id": "req_theirs", **fields}
    return Reply(status, body, {**JSON, **(headers or {})})


class Script:
    """A Transport. The last entry of the script is played for ever."""

    def __init__(self, *answers: Reply | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []
        self.closed = 0

    async def send(self, request: Request) -> Reply:
        self.requests.append(request)
        answer = self.answers[min(len(self.requests), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        self.closed += 1

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Method and path of each request."""
        return [(request.method, request.path) for request in self.requests]


class Waits:
    """Stands for `asyncio.sleep`: notes the seconds and goes on at once."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def caller(script: Script, waits: Waits | None = None, *, timeout: float | None = 60.0, retries: int = 2) -> Caller:
    """A caller over the script that waits exactly as long as it may (no chance)."""
    return Caller(script, "sk-secret", timeout=timeout, retries=retries, sleep=waits or Waits(), chance=lambda: 1.0)
