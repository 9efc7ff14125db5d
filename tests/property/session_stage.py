"""Where the stateful test plays: a server in its lives, puppets in place of models and tools, and what holds after each
step. The steps are in `test_session_machine` and `session_faults`.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from itertools import repeat
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from incarnation import AGENT, OWNER, Incarnation, ToolBox
from log_rules import problems
from property.puppets import Puppets
from property.session_follower import Follower
from property.session_model import Commits, Expected, brief
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.faults import ShiftedClock, When
from sessile.testing.scripted_model import ScriptedModels
from sessile.wire.errors import NotFound, SessileError
from sessile.wire.sessions import CreateSessionRequest

SESSIONS = ("s0", "s1")
QUIET_STEPS = 6
"""Steps between two disturbances: with more of them most turns would end before anything has come of them."""
HEARTBEAT = 0.01
CALM = 40
"""Turns of the event loop in which nothing was under way."""
Doing = Callable[[], Awaitable[Any]]
which = st.integers(0, 100)


def nothing() -> Commits:
    """A commit of which a log shows nothing."""
    return repeat(None, 1)


def made(commits: Commits) -> None:
    """Let all commits be made."""
    for _ in commits:
        pass


def content_of(body: bytes) -> str:
    """What a stored input says."""
    content: str = msgspec.json.decode(body)["content"]
    return content


def disturbance(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule for what ends or loses something: it strikes after some quiet steps."""

    def ruled(step: Callable[..., None]) -> Any:
        @wraps(step)
        def strike(self: "Stage", **given: Any) -> None:
            self.quiet_steps = 0
            step(self, **given)

        return _only(lambda self: self.quiet_steps >= QUIET_STEPS, strike, arguments)

    return ruled


def aside(**arguments: Any) -> Callable[[Callable[..., None]], Any]:
    """A rule for what changes no log: it does not come at every step."""
    return lambda step: _only(lambda self: self.quiet_steps % 3 == 0, step, arguments)


def _only(when: Callable[["Stage"], bool], step: Callable[..., None], arguments: dict[str, Any]) -> Any:
    made: Any = rule(**arguments)(step)  # type: ignore[no-untyped-call]
    return precondition(when)(made)


class Stage(RuleBasedStateMachine):
    """One server, life after life, on one database with two sessions."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="sessile-machine-"))
        self.clock = FakeClock()
        self.set_back = 0
        """Seconds that the clock was set back by."""
        self.starts = Counter[str]()
        self.expected: dict[str, Expected] = {}
        self.followers: list[Follower] = []
        self.stalled: tuple[Incarnation, Puppets] | None = None
        """A life that has lost its turns to the one after it, and does not know it yet."""
        self.fuse: tuple[int, When] | None = None
        """The commit at which the server will be killed."""
        self.restless: tuple[Follower, int] | None = None
        """A follower that comes back in the middle of the next step, after so many turns of the event loop."""
        self.sound = False
        """Whether the last step was as it should be."""
        self.quiet_steps = 0
        self.count = 0

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            self.shifted = ShiftedClock(self.clock)
            self.puppets = Puppets(self.starts)
            models, tools = ScriptedModels(self.puppets.model), ToolBox(self.puppets.tools)
            self.server = await Incarnation.first(self.folder, models, tools, self.shifted, HEARTBEAT)

        self.runner.run(begin())
        for session in SESSIONS:
            self.create(session)

    def teardown(self) -> None:
        try:
            if self.sound:
                self.runner.run(self.finish())
        finally:
            self.runner.run(self.end())
            self.runner.close()
            shutil.rmtree(self.folder)

    async def end(self) -> None:
        for follower in self.followers:
            await follower.disconnect()
        await self.end_stalled()
        await self.server.end()

    async def end_stalled(self) -> None:
        if self.stalled is not None:
            (stalled, puppets), self.stalled = self.stalled, None
            await stalled.kill()
            assert not puppets.model.open

    async def finish(self) -> None:
        """Everybody sees everything in the end, and the server's own check finds nothing wrong."""
        for session, expected in self.expected.items():
            check = await self.server.events.check(OWNER, AGENT, session)
            assert check.ok, check.violations
            assert check.events == len(expected.log)
        for follower in self.followers:
            follower.going.set()
            if not follower.connected:
                await follower.connect(self.server)
            await self.caught_up(follower)

    # What a step is made of.

    def act(self, doing: Doing, commits: Commits | None = None, *, lose: bool = False) -> Any:
        """Do something, and let the model make the commits that it should make, up to a kill.

        Returns what came of it, also a refusal; None when the server was killed. `lose`: nobody gets the turn.
        """
        self.sound = False
        self.server.queue.lose(lose)
        return self.runner.run(self._act(doing, commits or iter(())))

    async def _act(self, doing: Doing, commits: Commits) -> Any:
        before, result = self.server.life.writes, None
        coming_back = asyncio.create_task(self._come_back())
        try:
            result = await doing()
        except asyncio.CancelledError:
            assert self.server.life.killed
        except SessileError as refusal:
            result = refusal
        await coming_back
        await self.settle()
        self.server.queue.lose(0)
        count, burnt = 0, False
        for _ in commits:
            count += 1
            if burnt := self._burns(commits):
                break
        assert self.server.life.killed == burnt, "it made other commits than it should"
        if burnt:
            await self.killed()
            return None
        assert self.server.life.writes - before == count, "it made more or fewer commits than it should"
        return result

    def _burns(self, commits: Commits) -> bool:
        """Whether the next commit is the one that the server was killed at; if it was made, make it."""
        number, when = self.fuse or (0, "before")
        self.fuse = (number - 1, when) if number > 1 else None
        if number == 1 and when == "after":
            next(commits, None)
        return number == 1

    async def _come_back(self) -> None:
        """Let a follower reconnect in the middle of a step."""
        if self.restless is not None:
            (follower, turns), self.restless = self.restless, None
            for _ in range(turns):
                await asyncio.sleep(0)
            await follower.disconnect()
            with contextlib.suppress(asyncio.CancelledError, NotFound):  # the server was killed, or the session deleted
                await follower.connect(self.server)

    def undisturbed(self, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something that makes commits in no order that is known, so that nobody can tell where a kill struck."""
        self.sound = False
        self.fuse = None
        self.server.life.spare()
        self.runner.run(step())

    async def settle(self) -> None:
        """Wait until nothing moves any more but by the test's hand."""
        lives = [self.server.life, *([self.stalled[0].life] if self.stalled else [])]
        calm = 0
        while calm < CALM:
            busy = any(life.busy for life in lives)
            await asyncio.sleep(0.0002 if busy else 0)
            calm = 0 if busy else calm + 1

    async def killed(self) -> None:
        """The end of this life, and the beginning of the next on what it has left."""
        for follower in self.followers:
            await follower.disconnect()
        await self.end_stalled()
        await self.server.end()
        assert not self.puppets.model.open
        self.next_life(await SqliteStore.open(self.folder / "s.db", self.shifted))
        await self.server.worker.recover()
        await self.settle()
        for expected in self.expected.values():
            made(expected.take_up())
        await self.come_back()

    def next_life(self, database: SqliteStore) -> None:
        """Nothing can be done to the life before from here on, but to end it."""
        self.fuse = None
        self.puppets = Puppets(self.starts)
        models, tools = ScriptedModels(self.puppets.model), ToolBox(self.puppets.tools)
        self.server = Incarnation(database, models, tools, self.shifted, HEARTBEAT)

    async def come_back(self) -> None:
        """All followers, to the server as it is now."""
        self.forget_followers()
        for follower in self.followers:
            await follower.disconnect()
            await follower.connect(self.server)

    async def caught_up(self, follower: Follower) -> None:
        """Wait until a follower has seen the whole log; it has seen nothing else, and its outputs are the log's."""
        log = await self.server.log(follower.session)
        await follower.saw(log[-1]["id"] if log else None)
        ids = ["start", *(event["id"] for event in log)]
        assert follower.seen == log[ids.index(follower.origin) :]
        texts = {event["id"]: event["content"] for event in log if event["type"] == "agent_output"}
        assert all(texts[event_id] == text for event_id, text in follower.ends)

    def forget_followers(self) -> None:
        """Those of sessions that are gone."""
        self.followers = [follower for follower in self.followers if follower.session in self.expected]
        if self.restless and self.restless[0] not in self.followers:
            self.restless = None

    def those(self, *states: str) -> list[str]:
        return [session for session, expected in self.expected.items() if expected.state in states]

    def pick(self, state: str, number: int) -> tuple[str, Expected]:
        found = self.those(state)
        session = found[number % len(found)]
        return session, self.expected[session]

    @property
    def running(self) -> list[str]:
        """Sessions with a turn that has not ended."""
        return [session for session, expected in self.expected.items() if expected.turn]

    def a_name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    @invariant()
    def logs_are_as_expected(self) -> None:
        if self.expected:
            self.runner.run(self._compare())
        self.sound = True
        self.quiet_steps += 1

    async def _compare(self) -> None:
        for session, expected in self.expected.items():
            log = await self.server.log(session)
            assert [brief(event) for event in log] == expected.log
            assert problems(log) == []
            row = await self.server.sessions.get(OWNER, AGENT, session)
            assert (row.status == "running") == (expected.turn is not None and not expected.pending)
            waiting = await self.server.inputs.waiting(OWNER, AGENT, session)
            assert [(content_of(one.body), one.behavior) for one in waiting] == [
                (input.content, input.behavior) for input in expected.waiting
            ]
            outstanding = (await self.server.events.outstanding(OWNER, AGENT, session)).client_tool_calls
            parked = expected.running.calls if expected.state == "clients" else []
            assert [call.arguments["id"] for call in outstanding] == [call.id for call in parked]
            assert (session in self.puppets.model.open) == (expected.state == "model")
            if expected.state == "model":
                heard = self.puppets.model.heard[session]
                assert heard == [event[1] for event in expected.log if event[0] == "input_message"]
        for follower in self.followers:
            if follower.going.is_set() and follower.connected:
                await self.caught_up(follower)
        assert all(count == 1 for count in self.starts.values())

    def create(self, session: str) -> None:
        def created() -> Commits:
            yield
            self.expected[session] = Expected()

        self.act(lambda: self.server.sessions.create(OWNER, AGENT, CreateSessionRequest(key=session)), created())
