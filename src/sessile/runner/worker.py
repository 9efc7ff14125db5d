"""Runs claimed turns as tasks of this process: start, cancel, drain, recover, and what a fault means for a turn."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator

import structlog
from structlog.contextvars import bind_contextvars

from sessile.domain.session import fold
from sessile.domain.turn import model_calls
from sessile.ports import ModelFault
from sessile.rows import Claim, EventQuery, Fence
from sessile.runner.open_turn import STORAGE_RETRY_SECONDS, OpenTurn
from sessile.runner.slots import Slots
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
_RENEWED_AT_ONCE = 500
"""Leases that one commit renews: a few milliseconds of the event loop."""
_TAKEN_AT_ONCE = 100
"""Turns that one commit takes up, each with its agent, before it is looked whether there is room for more."""
_log = structlog.get_logger("sessile.runner")

Running = tuple[OpenTurn, "asyncio.Task[None]"]
Held = tuple[OpenTurn, "asyncio.Task[None] | None"]
"""A turn, and its task if it has one."""


class Worker:
    """The `TurnQueue` of one process: a task for each running turn."""

    def __init__(self, env: TurnEnvironment) -> None:
        self._env = env
        self._running: dict[int, Running] = {}
        self._waiting: dict[int, OpenTurn] = {}
        """Turns that are claimed and wait for a slot, by session. They have no task; their leases are kept."""
        self._slots = Slots[OpenTurn](env.limits, time.monotonic, lambda turn: turn.claim.size)
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

    @property
    def waiting(self) -> int:
        """How many turns wait for a slot."""
        return len(self._waiting)

    def reserve(self, tenant_id: int, size: int) -> Callable[[], None]:
        """Keep room for a turn that is about to be claimed. Raises Overloaded. Never blocks."""
        return self._slots.reserve(tenant_id, size)

    def submit(self, claim: Claim) -> None:
        """Run a claimed turn, a new one or one that is under way, once there is a slot for it. Never blocks."""
        self._start(self._open(claim))

    def interrupt(self, session_id: int, turn_id: str) -> None:
        """Stop a turn whose interrupt is recorded; one that does not run any more is left alone. Never blocks."""
        turn = self._turn_of(session_id)
        if turn is not None and turn.turn_id == turn_id:
            self._interrupt(turn, None)
        else:
            self._early.append(turn_id)

    def log_changed(self, session_id: int) -> None:
        """Events of a session were hidden, unhidden or deleted: its turn reads the log again before a model call."""
        if (turn := self._turn_of(session_id)) is not None:
            turn.log_changed = True

    def steer(self, session_id: int) -> None:
        """An input waits to join the turn that runs in a session. A hint: the turn's commits tell too. Never blocks."""
        if (turn := self._turn_of(session_id)) is not None:
            turn.steered = True

    async def cancel_session(self, session_id: int) -> None:
        """Stop the turn of a session that is gone, and wait until it has stopped."""
        self._drop(session_id)
        while session_id in self._running:  # its end may have started the next one before the session was gone
            await self._cancel([self._running[session_id]])
            self._drop(session_id)

    async def cancel_agent(self, agent_id: int) -> None:
        """Stop the turns of all sessions of an agent that is gone, and wait until they have stopped."""
        turns = [*self._waiting.values(), *(turn for turn, _ in self._running.values())]
        gone = {turn.claim.session.id for turn in turns if turn.claim.agent.id == agent_id}
        for session_id in gone:
            self._drop(session_id)
        while running := [self._running[session_id] for session_id in gone if session_id in self._running]:
            await self._cancel(running)
            for session_id in gone:
                self._drop(session_id)
        for session_id in gone:
            self._env.sink.close_session(session_id)

    def concerned(self, sessions: Collection[int]) -> set[int]:
        """Those of some sessions whose turns run or wait here."""
        return {session_id for session_id in sessions if session_id in self._running or session_id in self._waiting}

    def close_agent(self, agent_id: int) -> None:
        """Stop the turns of an agent that was deleted elsewhere."""
        for turn, task in self._held().values():
            if turn.claim.agent.id == agent_id:
                self._lose(turn, task)

    async def look(self, sessions: Collection[int] | None) -> None:
        """Others may have changed these sessions, or any: stop the turns that they want stopped, or that are theirs.

        Raises StorageUnavailable.
        """
        held = self._held()
        if sessions is not None:
            held = {fence: known for fence, known in held.items() if fence.session_id in sessions}
        found = await self._env.store.standing(held) if held else {}
        for fence, (turn, task) in held.items():
            stands = found.get(fence)
            if stands is None:
                self._lose(turn, task)
            elif stands.interrupted:
                self._interrupt(turn, task)
            else:
                turn.steered = turn.steered or stands.steered

    async def drain(self, patience: float, seconds: float) -> None:
        """Let turns go on for so long; leave those that have not ended then to the next start, which goes on with them.

        Turns that wait for a slot, or whose input has waited, are left too. What runs by then is stopped within
        `seconds`. A second drain waits no longer than the first.
        """
        now = asyncio.get_running_loop().time
        if self._leave_at is None:
            self._leave_at = now() + patience
            self._deadline = self._leave_at + seconds
            for turn in list(self._waiting.values()):
                self._withdraw(turn)
                self._abandon(turn)
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
        take_all = self._env.store.take_unfinished_turns
        return await self._take_up(await take_all()) if alone else await self._take_expired()

    async def keep_leases(self, lease_seconds: float) -> None:
        """Look after leases three times a lease, and when one runs out, until it is cancelled."""
        await _keep_leases(self, self._env, lease_seconds)

    async def tend_leases(self) -> None:
        """Renew the leases of the turns that run here, stop those that are another's, and take up what nobody renews.

        The order matters: a turn that runs here is renewed before it can be taken for one that nobody runs. Raises
        StorageUnavailable.
        """
        held, lost = self._held(), 0
        fences = list(held)
        for start in range(0, len(fences), _RENEWED_AT_ONCE):
            for fence in await self._env.store.renew(fences[start : start + _RENEWED_AT_ONCE]):
                lost += 1
                self._lose(*held[fence])
        self._env.observer.leases(len(held) - lost, lost)
        if self._leave_at is None:
            await self._take_expired()

    async def _take_expired(self) -> int:
        """Take up what nobody renews, while there is room for it here; the rest is for others, or for the next look."""
        taken, last = 0, _TAKEN_AT_ONCE
        while last == _TAKEN_AT_ONCE and not self._slots.full:
            last = await self._take_up(await self._env.store.take_expired_turns(_TAKEN_AT_ONCE))
            taken += last
        return taken

    def _held(self) -> dict[Fence, Held]:
        """All turns that run or wait here, by their fences."""
        held: dict[Fence, Held] = {turn.claim.fence: (turn, None) for turn in self._waiting.values()}
        return held | {turn.claim.fence: (turn, task) for turn, task in self._running.values()}

    def _lose(self, turn: OpenTurn, task: "asyncio.Task[None] | None") -> None:
        """Stop a turn that is another's, or gone; what it still writes is refused."""
        if self._waiting.get(turn.claim.session.id) is turn:
            self._drop(turn.claim.session.id)
        elif (task := self._task_of(turn) or task) is not None:
            turn.cancel(task)

    def _interrupt(self, turn: OpenTurn, task: "asyncio.Task[None] | None") -> None:
        """Break a turn off for a caller; one that waits for a slot ends without."""
        if self._waiting.get(turn.claim.session.id) is turn:
            self._withdraw(turn)
            turn.interrupted = True
            self._launch(turn)
        elif (task := self._task_of(turn) or task) is not None:
            turn.interrupt(task)

    def _task_of(self, turn: OpenTurn) -> "asyncio.Task[None] | None":
        running, task = self._running.get(turn.claim.session.id, (None, None))
        return task if running is turn else None

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
        session_id, tenant_id = turn.claim.session.id, turn.claim.session.tenant_id
        known = self._turn_of(session_id)
        if known is not None and known.claim.fence.order > turn.claim.fence.order:
            turn.watch.left(lost=True)
            return  # a claim that came so late that the turn was taken up meanwhile, or even has ended
        self._drop(session_id)
        ends_at_once = turn.interrupted or turn.turn_id in self._early or self._leaving
        if ends_at_once or self._slots.enter(tenant_id, turn):
            self._launch(turn)
        elif self._leave_at is not None:
            self._slots.withdraw(tenant_id, turn)
            self._abandon(turn)
        else:
            self._waiting[session_id] = turn

    def _launch(self, turn: OpenTurn) -> None:
        task = asyncio.create_task(self._run(turn), name=turn.turn_id)
        self._running[turn.claim.session.id] = (turn, task)
        if turn.turn_id in self._early:
            turn.interrupt(task)
        if self._leaving:
            turn.cancel(task)

    def _launch_next(self) -> None:
        """Run the turns that wait, as far as there are slots."""
        while (turn := self._slots.next()) is not None:
            del self._waiting[turn.claim.session.id]
            self._launch(turn)

    @contextlib.contextmanager
    def _rest(self, turn: OpenTurn) -> Iterator[None]:
        """Inside, the turn has no slot: it waits for a turn that may need one, and all slots might be theirs.

        It goes on at once, beyond the limit if need be: no other turn starts until enough have ended.
        """
        turn.rests += 1
        self._slots.leave(turn)
        self._launch_next()
        try:
            yield
        finally:
            turn.rests -= 1
            running = self._running.get(turn.claim.session.id)
            if not turn.rests and running is not None and running[0] is turn:
                self._slots.enter_at_once(turn.claim.session.tenant_id, turn)

    def _turn_of(self, session_id: int) -> OpenTurn | None:
        """The turn of a session that runs here or waits for a slot."""
        waiting = self._waiting.get(session_id)
        return self._running[session_id][0] if waiting is None and session_id in self._running else waiting

    def _withdraw(self, turn: OpenTurn) -> None:
        """Let a turn wait no longer."""
        del self._waiting[turn.claim.session.id]
        self._slots.withdraw(turn.claim.session.tenant_id, turn)

    def _drop(self, session_id: int) -> None:
        """Forget the turn of a session that waits for a slot, if one does: it is another's, or gone."""
        if (turn := self._waiting.get(session_id)) is not None:
            self._withdraw(turn)
            turn.leave(lost=True)

    def _abandon(self, turn: OpenTurn) -> None:
        """Leave a turn that never ran here to the next start."""
        self._abandoned.append(turn.claim.fence)
        turn.leave(lost=False)

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
            self._slots.leave(turn)
            self._launch_next()
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
        turn = OpenTurn(claim, self._env.store, self._env.sink, self._env.clock, watch)
        turn.rest = self._rest
        return turn

    async def _cancel(self, running: list[Running], seconds: float | None = None) -> None:
        for turn, task in running:
            turn.cancel(task)
        if running:
            await asyncio.wait([task for _, task in running], timeout=seconds)

    def _forget(self, turn: OpenTurn) -> None:
        """The next turn of the session may be running already: it was accepted the moment this one had ended."""
        if self._running.get(turn.claim.session.id, (None,))[0] is turn:
            del self._running[turn.claim.session.id]
            turn.tell_whether_left()


async def _keep_leases(worker: Worker, env: TurnEnvironment, lease_seconds: float) -> None:
    """Whoever lives renews so often that a lease runs out only when its holder does not."""
    pause = lease_seconds / 3
    while True:
        await env.clock.sleep(pause)
        pause = lease_seconds / 3
        try:
            await worker.tend_leases()
            left = await env.store.next_expiry()
            pause = pause if left is None else min(pause, max(left, lease_seconds / _LOOKS))
        except StorageUnavailable:
            _log.warning("leases_wait_for_storage")
        except Exception:  # a defect here must not end what keeps all turns
            _log.exception("leases_failed")
