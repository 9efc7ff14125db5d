"""Runs claimed turns as tasks of this process: start, cancel, drain, and what a fault means for a turn."""

import asyncio
from collections import deque

import structlog
from structlog.contextvars import bind_contextvars

from sessile.domain.session import fold
from sessile.domain.turn import model_calls
from sessile.ports import ModelFault
from sessile.rows import Claim, EventQuery
from sessile.runner.open_turn import OpenTurn
from sessile.runner.turn import TurnEnvironment, run_turn
from sessile.wire.errors import FenceLost, SessileError, StorageUnavailable
from sessile.wire.events import AnyEvent, TurnError, TurnStartedRecord

_SHUTDOWN = TurnError(code="server_shutdown", message="The server was stopped while the turn was running.")
MAX_TAKES = 5
"""How many processes may run a turn, one after the other."""
_RESTARTED = TurnError(
    code="server_restarted", message=f"The server went away {MAX_TAKES} times while the turn was running."
)
_INTERNAL = TurnError(code="internal_error", message="The turn failed inside the server.")
_REMEMBERED = 256
_log = structlog.get_logger("sessile.runner")

Running = tuple[OpenTurn, "asyncio.Task[None]"]


class Worker:
    """The `TurnQueue` of one process: a task for each running turn."""

    def __init__(self, env: TurnEnvironment) -> None:
        self._env = env
        self._running: dict[int, Running] = {}
        self._early = deque[str](maxlen=_REMEMBERED)
        """Turns that were interrupted and do not run here: they have ended, or their claim is still on its way."""
        self._deadline: float | None = None
        """When the drain gives up; None while there is none."""

    def submit(self, claim: Claim) -> None:
        """Run a claimed turn; while draining, only to end it. Never blocks."""
        self._start(self._open(claim))

    def interrupt(self, session_id: int, turn_id: str) -> None:
        """Stop a turn whose interrupt is recorded; one that does not run any more is left alone. Never blocks."""
        turn, task = self._running.get(session_id, (None, None))
        if turn is not None and task is not None and turn.turn_id == turn_id:
            turn.interrupt(task)
        else:
            self._early.append(turn_id)

    def log_changed(self, session_id: int) -> None:
        """Events of a session were hidden, unhidden or deleted: its turn reads the log again before a model call."""
        if session_id in self._running:
            self._running[session_id][0].log_changed = True

    async def cancel_session(self, session_id: int) -> None:
        """Stop the turn of a session that is gone, and wait until it has stopped."""
        await self._cancel([self._running[session_id]] if session_id in self._running else [])

    async def cancel_agent(self, agent_id: int) -> None:
        """Stop the turns of all sessions of an agent that is gone, and wait until they have stopped."""
        running = [(turn, task) for turn, task in self._running.values() if turn.claim.agent.id == agent_id]
        await self._cancel(running)
        for turn, _ in running:
            self._env.sink.close_session(turn.claim.session.id)

    async def drain(self, seconds: float) -> None:
        """End all running turns with `server_shutdown`, and those that are still submitted.

        What has not ended in time is left to the next start. A second drain waits no longer than the first.
        """
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + seconds
        while self._running and (left := self._deadline - loop.time()) > 0:
            await self._cancel(list(self._running.values()), left)

    async def recover(self) -> int:
        """Go on with every turn that an earlier process left running; returns how many there were.

        A turn that a caller has interrupted is closed, and so is one that has outlived too many processes: it may be
        what ends them.
        """
        claims = await self._env.store.take_unfinished_turns()
        for claim in claims:
            turn = self._open(claim)
            await self._read_left(turn)
            _log.warning("turn_taken_up", turn_id=claim.turn_id, session_key=claim.session.key, take=claim.fence.token)
            if claim.interrupted or claim.fence.token > MAX_TAKES:
                await turn.break_off(_RESTARTED)
            else:
                self._start(turn)
        return len(claims)

    def _start(self, turn: OpenTurn) -> None:
        task = asyncio.create_task(self._run(turn), name=turn.turn_id)
        self._running[turn.claim.session.id] = (turn, task)
        if turn.turn_id in self._early:
            turn.interrupt(task)
        if self._deadline is not None:
            turn.cancel(task)

    async def _run(self, turn: OpenTurn) -> None:
        bind_contextvars(turn_id=turn.turn_id, session_key=turn.claim.session.key)
        try:
            turn.begin()
            await run_turn(turn, self._env)
            if turn.history is not None and not turn.log_changed:
                self._env.histories.keep(turn.claim, turn.history)
        except FenceLost:
            _log.info("turn_lost")
        except asyncio.CancelledError:
            turn.stopping = turn.stopping or not turn.interrupted  # an interrupted turn still waits for the store
            await self._fail(turn, _SHUTDOWN)
        except ModelFault as fault:
            await self._fail(turn, TurnError(code=fault.code, message=fault.message))
        except SessileError as error:
            await self._fail(turn, TurnError(code=error.code, message=error.message))
        except Exception:  # a defect in one turn must end that turn durably, never leave it running or end the worker
            _log.exception("turn_failed")
            await self._fail(turn, _INTERNAL)
        finally:
            self._forget(turn)

    async def _fail(self, turn: OpenTurn, error: TurnError) -> None:
        try:
            await turn.break_off(error)
            if turn.interrupted:
                _log.info("turn_interrupted")
            else:
                _log.warning("turn_error", code=error.code, error=error.message)
        except FenceLost:
            _log.info("turn_lost")
        except StorageUnavailable:
            _log.error("turn_left_to_the_next_start")
        except Exception:  # what was shown cannot be kept; the turn must end all the same
            _log.exception("turn_failed")
            turn.outputs.clear()
            await turn.end("error", (), _INTERNAL)

    async def _read_left(self, turn: OpenTurn) -> None:
        """What the log says of a turn: its open tool calls, how many model calls called tools, its order."""
        claim = turn.claim
        events: list[AnyEvent] = []
        query = EventQuery(limit=200, order="desc", records=True, include_hidden=True)
        while True:
            page = await self._env.store.read_log(claim.session.id, query)
            events += [entry.event() for entry in page.rows if entry.turn_id == claim.turn_id]
            begun = any(isinstance(event, TurnStartedRecord) for event in events)
            if begun or page.next is None:
                events.reverse()
                turn.open_calls, turn.model_calls = fold(events).open_tool_calls, model_calls(events)
                if isinstance(events[0], TurnStartedRecord):
                    turn.order = events[0].compaction or None
                return
            query = EventQuery(cursor=page.next, limit=200, order="desc", records=True, include_hidden=True)

    def _open(self, claim: Claim) -> OpenTurn:
        return OpenTurn(claim, self._env.store, self._env.sink, self._env.clock)

    async def _cancel(self, running: list[Running], seconds: float | None = None) -> None:
        for turn, task in running:
            turn.cancel(task)
        if running:
            await asyncio.wait([task for _, task in running], timeout=seconds)

    def _forget(self, turn: OpenTurn) -> None:
        """The next turn of the session may be running already: it was accepted the moment this one had ended."""
        running = self._running.get(turn.claim.session.id)
        if running is not None and running[0] is turn:
            del self._running[turn.claim.session.id]
