"""The limit: a bare prototype of the design, which does the same durable work with nothing around it.

Raw ASGI, msgspec, SQLite with group commit. No authentication, routes, validation, tools, turn records or recovery.
`python -m benchmarks.bare DATABASE PORT`.
"""

import _thread
import asyncio
import secrets
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.asgi import Receive, Scope, Send, answer, read_body, serve
from benchmarks.models import DELTA_TEXT, DELTAS
from sessile.wire.codec import rfc3339
from sessile.wire.events import ContextConsumed, StreamEnd, StreamingAgentOutput, StreamingAgentOutputEnd
from sessile.wire.sessions import InputTokens, OutputTokens, Session, SessionContextUsage, Usage

_encode = msgspec.json.Encoder().encode

_SCHEMA = """
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL, metadata BLOB NOT NULL,
    running_turn TEXT, last_sequence INTEGER NOT NULL, last_event_id TEXT,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL
);
CREATE TABLE events (
    session_id INTEGER NOT NULL, sequence INTEGER NOT NULL, id TEXT NOT NULL, turn_id TEXT NOT NULL,
    type TEXT NOT NULL, created_at INTEGER NOT NULL, body BLOB NOT NULL
);
CREATE UNIQUE INDEX events_log ON events (session_id, sequence);
"""
_CREATE = """
INSERT INTO sessions (key, name, metadata, last_sequence, created_at, updated_at) VALUES (?, ?, ?, 0, ?, ?)
"""
_ADVANCE = """
UPDATE sessions SET last_sequence = last_sequence + 1, running_turn = ?, last_event_id = ?, updated_at = ?
WHERE key = ? RETURNING id, last_sequence
"""
_APPEND = """
INSERT INTO events (session_id, sequence, id, turn_id, type, created_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_LIST_EVENTS = """
SELECT e.sequence, e.id, e.turn_id, e.created_at, e.body FROM sessions s JOIN events e ON e.session_id = s.id
WHERE s.key = ? ORDER BY e.sequence {} LIMIT 21
"""
_LIST_SESSIONS = """
SELECT key, name, metadata, running_turn, last_sequence, last_event_id, created_at, updated_at
FROM sessions ORDER BY id DESC LIMIT 21
"""


class _Create(Struct):
    name: str
    metadata: dict[str, Any]


class _Input(Struct):
    content: str
    stream_response: bool = False


_decode_create = msgspec.json.Decoder(_Create).decode
_decode_input = msgspec.json.Decoder(_Input).decode


class Event(Struct):
    """A durable event: its envelope and its body, which opens with `{"type":`."""

    id: str
    turn_id: str
    type: str
    created_at: int
    body: bytes

    def json(self, session_key: str, sequence: int) -> bytes:
        """The event as an answer shows it."""
        envelope = (
            f'{{"id":"{self.id}","session_key":"{session_key}","created_at":"{rfc3339(self.created_at)}",'
            f'"sequence":{sequence},"turn_id":"{self.turn_id}",'
        )
        return envelope.encode() + self.body[1:]


Verb = Callable[..., Any]


class Writer:
    """One thread that owns the writing connection: it takes all verbs that wait, commits once, answers them all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Verb, tuple[Any, ...], asyncio.Future[Any]]] = deque()
        self._asleep = _thread.allocate_lock()
        self._asleep.acquire()
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, verb: Verb, *arguments: Any) -> "asyncio.Future[Any]":
        """Queue a verb; only the event loop calls this, so that the lock is released once for each sleep."""
        future = self._loop.create_future()
        self._waiting.append((verb, arguments, future))
        if self._asleep.locked():
            self._asleep.release()
        return future

    def _work(self) -> None:
        execute = self._connection.execute
        waiting = self._waiting
        while True:
            self._asleep.acquire()
            while waiting:
                batch = [waiting.popleft() for _ in range(len(waiting))]
                execute("BEGIN IMMEDIATE")
                outcomes = [(future, verb(execute, *arguments)) for verb, arguments, future in batch]
                execute("COMMIT")
                self._loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in outcomes:
        if not future.done():
            future.set_result(result)


def _create(execute: Any, key: str, name: str, metadata: bytes, now: int) -> None:
    execute(_CREATE, (key, name, metadata, now, now))


def _append(execute: Any, session_key: str, running_turn: str | None, event: Event) -> int:
    found = execute(_ADVANCE, (running_turn, event.id, event.created_at, session_key)).fetchone()
    session_id, sequence = found
    execute(_APPEND, (session_id, sequence, event.id, event.turn_id, event.type, event.created_at, event.body))
    return int(sequence)


def _now() -> int:
    return time.time_ns() // 1000


def _frame(event: str, data: bytes) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    return connection


class Bare:
    """The application."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        parts = scope["path"].split("/")
        post = scope["method"] == "POST"
        if len(parts) == 7 and post:
            await self._input(parts[5], _decode_input(await read_body(receive)), send)
        elif len(parts) == 5 and post:
            await self._create(parts[3], _decode_create(await read_body(receive)), send)
        elif len(parts) == 7:
            await self._list_events(parts[5], b"order=desc" in scope["query_string"], send)
        elif len(parts) == 5:
            await self._list_sessions(parts[3], send)
        else:
            await answer(send, 200, b"{}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        connection = _connect(self._path)
        connection.executescript(_SCHEMA)
        self._reader = _connect(self._path)
        self._writer = Writer(connection)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _create(self, agent_key: str, new: _Create, send: Send) -> None:
        key = f"ase_{secrets.token_hex(8)}"
        now = _now()
        await self._writer.run(_create, key, new.name, _encode(new.metadata), now)
        await answer(send, 201, _encode(_session(agent_key, key, new.name, new.metadata, None, 0, None, now, now)))

    async def _input(self, session_key: str, given: _Input, send: Send) -> None:
        turn_id = f"trn_{secrets.token_hex(12)}"
        part = {"type": "text", "content": given.content}
        message = _event(turn_id, "input_message", {"messages": [part], "content": given.content})
        sequence = await self._writer.run(_append, session_key, turn_id, message)
        shown = message.json(session_key, sequence)
        if given.stream_response:
            await self._stream(session_key, turn_id, shown, send)
            return
        output = _event(turn_id, "agent_output", {"content": "Noted.", "output_id": f"out_{secrets.token_hex(8)}"})
        sequence = await self._writer.run(_append, session_key, None, output)
        body = (
            b'{"events":[%b,%b],"session_key":"%b","turn_id":"%b","status":"stopped","stop_reason":"end_turn",'
            b'"error":null}' % (shown, output.json(session_key, sequence), session_key.encode(), turn_id.encode())
        )
        await answer(send, 201, body)

    async def _stream(self, session_key: str, turn_id: str, first: bytes, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        frames = [_frame("input_message", first)]
        wake = asyncio.Event()
        turn = asyncio.create_task(self._turn(session_key, turn_id, frames, wake))
        turn.add_done_callback(lambda _: wake.set())
        wake.set()
        more = True
        while more:
            await wake.wait()
            wake.clear()
            more = not turn.done()
            waiting, frames[:] = frames[:], ()
            await send({"type": "http.response.body", "body": b"".join(waiting), "more_body": more})

    async def _turn(self, session_key: str, turn_id: str, frames: list[bytes], wake: asyncio.Event) -> None:
        """One turn of a model that gives DELTAS deltas; its frames are put where the stream takes them."""
        output_id = f"out_{secrets.token_hex(8)}"
        offset = 0
        text = []
        for _ in range(DELTAS):
            delta = StreamingAgentOutput(
                content=DELTA_TEXT, output_id=output_id, offset=offset, turn_id=turn_id, created_at=rfc3339(_now())
            )
            frames.append(_frame("streaming_agent_output", _encode(delta)))
            wake.set()
            text.append(DELTA_TEXT)
            offset += len(DELTA_TEXT)
            await asyncio.sleep(0)
        output = _event(turn_id, "agent_output", {"content": "".join(text), "output_id": output_id})
        await self._writer.run(_append, session_key, None, output)
        now = rfc3339(_now())
        end = StreamingAgentOutputEnd(output_id=output_id, turn_id=turn_id, created_at=now, event_id=output.id)
        usage = SessionContextUsage(InputTokens(10), OutputTokens(DELTAS), 10 + DELTAS, 128_000)
        consumed = ContextConsumed(session_context_usage=usage, turn_id=turn_id, created_at=now)
        frames.append(_frame("streaming_agent_output_end", _encode(end)))
        frames.append(_frame("context_consumed", _encode(consumed)))
        frames.append(_frame("end", _encode(StreamEnd(status="stopped", stop_reason="end_turn"))))

    async def _list_events(self, session_key: str, newest: bool, send: Send) -> None:
        query = _LIST_EVENTS.format("DESC" if newest else "ASC")
        rows = self._reader.execute(query, (session_key,)).fetchall()
        shown = [
            Event(event_id, turn_id, "", created_at, body).json(session_key, sequence)
            for sequence, event_id, turn_id, created_at, body in rows[:20]
        ]
        page = b'{"page_key":"%d"}' % rows[19][0] if len(rows) > 20 else b"{}"
        await answer(send, 200, b'{"events":[%b],"metadata":%b}' % (b",".join(shown), page))

    async def _list_sessions(self, agent_key: str, send: Send) -> None:
        rows = self._reader.execute(_LIST_SESSIONS).fetchall()
        sessions = [
            _session(agent_key, key, name, msgspec.Raw(metadata), *rest) for key, name, metadata, *rest in rows[:20]
        ]
        page = {"page_key": "next"} if len(rows) > 20 else {}
        await answer(send, 200, _encode({"sessions": sessions, "metadata": page}))


def _event(turn_id: str, type: str, body: dict[str, Any]) -> Event:
    return Event(f"aev_{secrets.token_hex(15)}", turn_id, type, _now(), _encode({"type": type} | body))


def _session(
    agent_key: str,
    key: str,
    name: str,
    metadata: Any,
    running_turn: str | None,
    last_sequence: int,
    last_event_id: str | None,
    created_at: int,
    updated_at: int,
) -> Session:
    stopped = last_sequence and not running_turn
    return Session(
        id=key,
        key=key,
        agent_id=agent_key,
        agent_key=agent_key,
        name=name,
        metadata=metadata,
        enabled=True,
        status="running" if running_turn else "stopped" if stopped else "unstarted",
        stop_reason="end_turn" if stopped else None,
        last_event_id=last_event_id,
        tti_minutes=0,
        created_at=rfc3339(created_at),
        updated_at=rfc3339(updated_at),
        usage=Usage(),
    )


if __name__ == "__main__":
    serve(Bare(sys.argv[1]), int(sys.argv[2]), lifespan="on")
