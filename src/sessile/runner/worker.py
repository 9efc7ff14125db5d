"""Runs claimed turns as tasks of this process: start, cancel, drain, recover, and what a fault means for a turn."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Collection

import structlog
from structlog.contextvars import bind_contextvars

from sessile.domain.session import fold
from sessile.domain.turn import model_calls
from sessile.ports import ModelFault
from sessile.rows import Claim, EventQuery, Fence
from sessile.runner.open_turn import STORAGE_RETRY_SECONDS, OpenTurn
from sessile.runner.turn import TurnEnvironment, run_turn
from sessile.wire.errors import FenceLost, SessileError, StorageUnavailable
from sessile.wire.events import AnyEvent, TurnError, TurnStartedRecord

MAX_TAKES = 5
"""How many processes may run a turn, one after the other."""
_RESTARTED = TurnError(
    code="server_restarted", message=f"The server went away {MAX_TAKES} times while the turn was running."
)
_INTERNAL = TurnError(code="internal_error", message="The turn failed inside the server.")
_REMEMBERED = 256
_LOOKS = 50
"""How often in a lease a worker looks at most for what nobody renews."""
_log = structlog.get_logger("sessile.runner")

Running = tuple[OpenTurn, "asyncio.Task[None]"]


class Worker:
    """The `TurnQueue` of one process: a task for each running turn."""

    def __init__(self, env: TurnEnvironment) -> None:
        self._env = env
        self._running: dict[int, Running] = {}
        self._early = deque[str](maxlen=_REMEMBERED)
        """Turns that were interrupted and do not run here: they have ended, or their claim is still on its way."""
        self._leave_at: float | None = None
        """When the drain stops waiting for turns; None while there is none."""
        self._deadline = 0.0
        """When it stops waiting for those that it stops."""
        self._leaving = False
        """Whether turns are left to the next start."""
        self._abandoned: list[Fence] = []
        """Turns that were left and not handed over yet."""

    @property
    def count(self) -> int:
        """How many turns run here."""
        return len(self._running)

    def submit(self, claim: Claim) -> None:
        """Run a claimed turn, a new one or one that is under way. Never blocks."""
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

    def steer(self, session_id: int) -> None:
        """An input waits to join the turn that runs in a session. A hint: the turn's commits tell too. Never blocks."""
        turn, _ = self._running.get(session_id, (None, None))
        if turn is not None:
            turn.steered = True

    async def cancel_session(self, session_id: int) -> None:
        """Stop the turn of a session that is gone, and wait until it has stopped."""
        while session_id in self._running:  # its end may have started the next one before the session was gone
            await self._cancel([self._running[session_id]])

    async def cancel_agent(self, agent_id: int) -> None:
        """Stop the turns of all sessions of an agent that is gone, and wait until they have stopped."""
        gone = {turn.claim.session.id for turn, _ in self._running.values() if turn.claim.agent.id == agent_id}
        while running := [self._running[session_id] for session_id in gone if session_id in self._running]:
            await self._cancel(running)
        for session_id in gone:
            self._env.sink.close_session(session_id)

    def concerned(self, sessions: Collection[int]) -> set[int]:
        """Those of some sessions whose turns run here."""
        return {session_id for session_id in sessions if session_id in self._running}

    def close_agent(self, agent_id: int) -> None:
        """Stop the turns of an agent that was deleted elsewhere."""
        for turn, task in self._running.values():
            if turn.claim.agent.id == agent_id:
                turn.cancel(task)

    async def look(self, sessions: Collection[int] | None) -> None:
        """Others may have changed these sessions, or any: stop the turns that they want stopped, or that are theirs.

        Raises StorageUnavailable.
        """
        ids = self.concerned(self._running if sessions is None else sessions)
        held = {self._running[id][0].claim.fence: self._running[id] for id in ids}
        found = await self._env.store.standing(held) if held else {}
        for fence, (turn, task) in held.items():
            stands = found.get(fence)
            if stands is None:
                turn.cancel(task)  # what it still writes is refused
            elif stands.interrupted:
                turn.interrupt(task)
            else:
                turn.steered = turn.steered or stands.steered

    async def drain(self, patience: float, seconds: float) -> None:
        """Let turns go on for so long; leave those that have not ended then to the next start, which goes on with them.

        The turn of an input that has waited is left too. What runs by then is stopped within `seconds`. A second drain
        waits no longer than the first.
        """
        now = asyncio.get_running_loop().time
        if self._leave_at is None:
            self._leave_at = now() + patience
            self._deadline = self._leave_at + seconds
        while self._running and (left := self._leave_at - now()) > 0:
            await asyncio.wait([task for _, task in self._running.values()], timeout=left)
        self._leaving = True
        while self._running and (left := self._deadline - now()) > 0:
            await self._cancel(list(self._running.values()), left)
        await self._hand_over()

    async def recover(self, alone: bool = True) -> int:
        """Go on with every turn that an earlier process left running; returns how many there were.

        `alone`: whether nobody else runs turns of this store. Otherwise only what nobody renews any more is taken up.
        A turn that a caller has interrupted is closed, and so is one that has outlived too many processes: it may be
        what ends them.
        """
        store = self._env.store
        return await self._take_up(await (store.take_unfinished_turns() if alone else store.take_expired_turns()))

    async def keep_leases(self, lease_seconds: float) -> None:
        """Look after leases three times a lease, and when one runs out, until it is cancelled.

        Whoever lives renews so often that a lease runs out only when its holder does not.
        """
        pause = lease_seconds / 3
        while True:
            await self._env.clock.sleep(pause)
            pause = lease_seconds / 3
            try:
                await self.tend_leases()
                left = await self._env.store.next_expiry()
                pause = pause if left is None else min(pause, max(left, lease_seconds / _LOOKS))
            except StorageUnavailable:
                _log.warning("leases_wait_for_storage")
            except Exception:  # a defect here must not end what keeps all turns
                _log.exception("leases_failed")

    async def tend_leases(self) -> None:
        """Renew the leases of the turns that run here, stop those that are another's, and take up what nobody renews.

        The order matters: a turn that runs here is renewed before it can be taken for one that nobody runs. Raises
        StorageUnavailable.
        """
        held = {turn.claim.fence: (turn, task) for turn, task in self._running.values()}
        lost = await self._env.store.renew(held) if held else ()
        self._env.observer.leases(len(held) - len(lost), len(lost))
        for turn, task in map(held.__getitem__, lost):
            turn.cancel(task)  # what it still writes is refused
        if self._leave_at is None:
            await self._take_up(await self._env.store.take_expired_turns())

    async def _take_up(self, claims: list[Claim]) -> int:
        for claim in claims:
            turn = self._open(claim)
            _log.warning("turn_taken_up", turn_id=claim.turn_id, session_key=claim.session.key, take=claim.takes)
            if claim.interrupted or claim.takes >= MAX_TAKES:
                await self._read_on(turn)
                await self._fail(turn, _RESTARTED)
                turn.watch.left(lost=False)
                self._go_on(turn)
            else:
                self._start(turn)
        return len(claims)

    def _start(self, turn: OpenTurn) -> None:
        known, _ = self._running.get(turn.claim.session.id, (None, None))
        if known is not None and known.claim.fence.order > turn.claim.fence.order:
            turn.watch.left(lost=True)
            return  # a claim that came so late that the turn was taken up meanwhile, or even has ended
        task = asyncio.create_task(self._run(turn), name=turn.turn_id)
        self._running[turn.claim.session.id] = (turn, task)
        if turn.turn_id in self._early:
            turn.interrupt(task)
        if self._leaving:
            turn.cancel(task)

    async def _run(self, turn: OpenTurn) -> None:
        bind_contextvars(turn_id=turn.turn_id, session_key=turn.claim.session.key)
        try:
            if not turn.claim.opened:
                await self._read_on(turn)
            turn.begin()
            await run_turn(turn, self._env)
            if turn.history is not None and not turn.log_changed:
                self._env.histories.keep(turn.claim, turn.history)
        except FenceLost:
            turn.lost = True
            _log.info("turn_lost")
        except asyncio.CancelledError:
            if turn.interrupted:
                await self._fail(turn, _INTERNAL)
            else:
                await self._leave(turn)
        except StorageUnavailable as error:
            if turn.stopping:
                await self._leave(turn)
            else:
                await self._fail(turn, TurnError(code=error.code, message=error.message))
        except ModelFault as fault:
            await self._fail(turn, TurnError(code=fault.code, message=fault.message))
        except SessileError as error:
            await self._fail(turn, TurnError(code=error.code, message=error.message))
        except Exception:  # a defect in one turn must end that turn durably, never leave it running or end the worker
            _log.exception("turn_failed")
            await self._fail(turn, _INTERNAL)
        finally:
            turn.watch.left(turn.lost)
            self._forget(turn)
            self._go_on(turn)

    def _go_on(self, ended: OpenTurn) -> None:
        """Run the turn that the end of another one has started. While draining, it is left to the next start."""
        if ended.next is None:
            return
        if self._leave_at is None:
            self._start(self._open(ended.next))
        else:
            self._abandoned.append(ended.next.fence)

    async def _fail(self, turn: OpenTurn, error: TurnError) -> None:
        try:
            await turn.break_off(error)
            if turn.interrupted:
                _log.info("turn_interrupted")
            else:
                _log.warning("turn_error", code=error.code, error=error.message)
        except FenceLost:
            turn.lost = True
            _log.info("turn_lost")
        except StorageUnavailable:
            await self._leave(turn)
        except Exception:  # what was shown cannot be kept; the turn must end all the same
            _log.exception("turn_failed")
            turn.outputs.clear()
            await turn.end("error", (), _INTERNAL)

    async def _leave(self, turn: OpenTurn) -> None:
        """Stop where the log is: whoever takes the turn up next goes on from there, unless its session is gone."""
        turn.stopping = True
        try:
            await turn.keep_outputs()
        except FenceLost:
            turn.lost = True
            _log.info("turn_lost")
            return
        except StorageUnavailable:
            pass
        if self._leaving:
            self._abandoned.append(turn.claim.fence)
            _log.warning("turn_left_to_the_next_start")

    async def _hand_over(self) -> None:
        """A turn that is left on purpose has not ended its process; without the store it is taken for that."""
        left = self._abandoned + [turn.claim.fence for turn, _ in self._running.values()]
        self._abandoned = []
        with contextlib.suppress(StorageUnavailable):
            if left:
                await self._env.store.hand_over(left)

    async def _read_on(self, turn: OpenTurn) -> None:
        """What a turn that is under way has done so far. It can neither go on nor end without."""
        turn.steered = True  # whoever was told of inputs that wait does not run it any more
        while True:
            try:
                await self._read_left(turn)
                return
            except StorageUnavailable:
                if turn.stopping:
                    raise
                _log.warning("turn_waits_for_storage")
                await self._env.clock.sleep(STORAGE_RETRY_SECONDS)

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
                started = next((event for event in events if isinstance(event, TurnStartedRecord)), None)
                turn.order = None if started is None else started.compaction or None
                return
            query = EventQuery(cursor=page.next, limit=200, order="desc", records=True, include_hidden=True)

    def _open(self, claim: Claim) -> OpenTurn:
        watch = self._env.observer.turn(claim)
        return OpenTurn(claim, self._env.store, self._env.sink, self._env.clock, watch)

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
