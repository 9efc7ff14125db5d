"""Sessions under anything that may happen to them: inputs, answers, tools, interrupts, kills, lost wake-ups, followers.

The real service, runner, live and store, step by step: after each step the logs are what a small model of them says,
and each follower has seen exactly its log. New kinds of input, and faults, are rules at the end of the machine.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from incarnation import AGENT, OWNER, Incarnation, ToolBox
from log_rules import problems
from property.puppets import PuppetModel, PuppetTool
from property.session_follower import Follower
from property.session_model import MAX_RETRIES, Call, Expected, brief
from sessile.domain.messages import ToolCall
from sessile.live.tail import Tail
from sessile.ports import ModelFault, TextDelta, ThinkingDelta
from sessile.rows import Claim, Once, Rejoined
from sessile.service.inputs import parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.faults import ShiftedClock, When
from sessile.testing.scripted_model import ScriptedModels
from sessile.wire.errors import IdempotencyKeyReused, NotFound, SessileError, SessionRunning
from sessile.wire.sessions import CreateSessionRequest

SESSIONS = ("s0", "s1")
HEARTBEAT = 0.01
CALM = 40
"""Turns of the event loop in which nothing was under way."""
Commit = Callable[[], None]
NOTHING: Commit = lambda: None  # noqa: E731 - a commit of which a log shows nothing
which = st.integers(0, 100)


class Sessions(RuleBasedStateMachine):
    """One server, life after life."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="sessile-machine-"))
        self.clock = FakeClock()
        self.model = PuppetModel()
        self.tools = {name: PuppetTool(name, idempotent=name == "again") for name in ("once", "again")}
        self.expected: dict[str, Expected] = {}
        self.followers: list[Follower] = []
        self.fuse: tuple[int, When] | None = None
        """The commit at which the server will be killed."""
        self.restless: tuple[Follower, int] | None = None
        """A follower that comes back in the middle of the next step, after so many turns of the event loop."""
        self.sound = False
        """Whether the last step was as it should be."""
        self.count = 0
        self.said: dict[str, str] = {}
        """The last input of each session."""

    @initialize()
    def begin(self) -> None:
        async def begin() -> None:
            self.shifted = ShiftedClock(self.clock)
            self.box, self.models = ToolBox(self.tools), ScriptedModels(self.model)
            self.server = await Incarnation.first(self.folder, self.models, self.box, self.shifted, HEARTBEAT)

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
        await self.server.end()

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

    def act(self, doing: Callable[[], Awaitable[Any]], *commits: Commit) -> Any:
        """Do something, and let the model make the commits that it should make, up to a kill.

        Returns what came of it, also a refusal; None when the server was killed.
        """
        self.sound = False
        return self.runner.run(self._act(doing, commits))

    async def _act(self, doing: Callable[[], Awaitable[Any]], commits: tuple[Commit, ...]) -> Any:
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
        burnt = False
        for commit in commits:
            number, when = self.fuse or (0, "before")
            burnt = number == 1
            self.fuse = (number - 1, when) if number > 1 else None
            if not burnt or when == "after":
                commit()
            if burnt:
                break
        assert self.server.life.killed == burnt, "it made other commits than it should"
        if burnt:
            await self.killed()
            return None
        assert self.server.life.writes - before == len(commits), "it made more or fewer commits than it should"
        return result

    async def _come_back(self) -> None:
        """Let a follower reconnect in the middle of a step."""
        if self.restless is not None:
            (follower, turns), self.restless = self.restless, None
            for _ in range(turns):
                await asyncio.sleep(0)
            await follower.disconnect()
            with contextlib.suppress(asyncio.CancelledError, NotFound):  # the server was killed, or the session deleted
                await follower.connect(self.server)

    async def settle(self) -> None:
        """Wait until nothing moves any more but by the test's hand."""
        calm = 0
        while calm < CALM:
            await asyncio.sleep(0.0002 if self.server.life.busy else 0)
            calm = 0 if self.server.life.busy else calm + 1

    async def killed(self) -> None:
        """The end of this life, and the beginning of the next on what it has left."""
        for follower in self.followers:
            await follower.disconnect()
        await self.server.end()
        self.fuse = None
        assert not self.model.open
        database = await SqliteStore.open(self.folder / "s.db", self.shifted)
        self.server = Incarnation(database, self.models, self.box, self.shifted, HEARTBEAT)
        await self.server.worker.recover()
        await self.settle()
        for expected in self.expected.values():
            expected.take_up()
        self.forget_followers()
        for follower in self.followers:
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

    def those(self, state: str) -> list[str]:
        return [session for session, expected in self.expected.items() if expected.state == state]

    def pick(self, state: str, number: int) -> tuple[str, Expected]:
        found = self.those(state)
        session = found[number % len(found)]
        return session, self.expected[session]

    def a_name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    def post(self, session: str, content: str, key: str | None = None) -> Callable[[], Awaitable[Any]]:
        async def post() -> Claim | Rejoined:
            once = None if key is None else Once(key, content.encode())
            request = parse({"content": content})
            claim, tail = await self.server.inputs.accept(OWNER, AGENT, session, request, attach, once)
            tail.close()
            return claim

        def attach(claim: Claim | Rejoined) -> Tail:
            return self.server.hub.follow(claim.session.id, claim.opened[-1].sequence)

        return post

    @invariant()
    def logs_are_as_expected(self) -> None:
        if self.expected:
            self.runner.run(self._compare())
        self.sound = True

    async def _compare(self) -> None:
        for session, expected in self.expected.items():
            log = await self.server.log(session)
            assert [brief(event) for event in log] == expected.log
            assert problems(log) == []
            row = await self.server.sessions.get(OWNER, AGENT, session)
            assert (row.status == "running") == (expected.turn is not None)
            assert (self.said.get(session) in self.model.open) == (expected.state == "model")
        for follower in self.followers:
            if follower.going.is_set() and follower.connected:
                await self.caught_up(follower)
        assert all(count == 1 for count in self.tools["once"].starts.values())

    # Inputs.

    def create(self, session: str) -> None:
        def created() -> None:
            self.expected[session] = Expected()

        self.act(lambda: self.server.sessions.create(OWNER, AGENT, CreateSessionRequest(key=session)), created)

    @precondition(lambda self: self.those("input"))
    @rule(number=which, keyed=st.booleans())
    def say(self, number: int, keyed: bool) -> None:
        session, expected = self.pick("input", number)
        content = self.said[session] = self.a_name(f"{session}/")
        key = self.a_name("key") if keyed else None
        claim = self.act(self.post(session, content, key), lambda: expected.accept(content, key))
        assert claim is None or isinstance(claim, Claim)

    @precondition(lambda self: any(expected.keys for expected in self.expected.values()))
    @rule(number=which, same=st.booleans())
    def say_again(self, number: int, same: bool) -> None:
        """The same key again: it joins, or is refused when it is another request."""
        known = [(session, *item) for session, expected in self.expected.items() for item in expected.keys.items()]
        session, key, (content, sequence) = known[number % len(known)]
        found = self.act(self.post(session, content if same else content + "!", key), NOTHING)
        if same:
            assert found is None or (isinstance(found, Rejoined) and found.opened[0].sequence == sequence)
        else:
            assert found is None or isinstance(found, IdempotencyKeyReused)

    @precondition(lambda self: any(expected.turn for expected in self.expected.values()))
    @rule(number=which)
    def say_while_it_runs(self, number: int) -> None:
        running = [session for session, expected in self.expected.items() if expected.turn]
        refusal = self.act(self.post(running[number % len(running)], "Too soon."), NOTHING)
        assert refusal is None or isinstance(refusal, SessionRunning)

    # The model.

    @precondition(lambda self: self.those("model"))
    @rule(number=which, text=st.text("ab \n\u2028é", min_size=1, max_size=4))
    def speak(self, number: int, text: str) -> None:
        session, expected = self.pick("model", number)
        expected.running.text += text
        self.act(lambda: self.model.open[self.said[session]].put(TextDelta(text)))

    @precondition(lambda self: self.those("model"))
    @rule(number=which)
    def think(self, number: int) -> None:
        session, expected = self.pick("model", number)
        expected.running.thinking += "hm "
        self.act(lambda: self.model.open[self.said[session]].put(ThinkingDelta("hm ")))

    @precondition(lambda self: self.those("model"))
    @rule(number=which)
    def finish_answer(self, number: int) -> None:
        session, expected = self.pick("model", number)
        self.act(lambda: self.model.open[self.said[session]].put(None), expected.finish)

    @precondition(lambda self: self.those("model"))
    @rule(number=which, names=st.lists(st.sampled_from(["once", "again", "nobody"]), min_size=1, max_size=3))
    def call_tools(self, number: int, names: list[str]) -> None:
        session, expected = self.pick("model", number)
        calls = [
            Call(self.a_name("call_"), name == "again", "tool_unknown" if name == "nobody" else "") for name in names
        ]

        async def call() -> None:
            steps = self.model.open[self.said[session]]
            for name, made in zip(names, calls, strict=True):
                steps.put_nowait(ToolCall(made.id, name, f'{{"id": "{made.id}"}}'))
            steps.put_nowait(None)

        answered = [expected.tool_outputs] if set(names) == {"nobody"} else []
        self.act(call, lambda: expected.call(calls), *answered)

    @precondition(lambda self: self.those("model"))
    @rule(number=which, retryable=st.booleans())
    def break_model(self, number: int, retryable: bool) -> None:
        session, expected = self.pick("model", number)
        turn = expected.running
        turn.failures += 1
        turn.waits = retryable and turn.failures <= MAX_RETRIES and not (turn.text or turn.thinking)
        fault = ModelFault("model_unavailable", "It broke.", retryable=retryable)
        commits = [] if turn.waits else [lambda: expected.fail("model_unavailable")]
        self.act(lambda: self.model.open[self.said[session]].put(fault), *commits)

    @precondition(lambda self: self.those("time"))
    @rule()
    def let_time_pass(self) -> None:
        for session in self.those("time"):
            self.expected[session].running.waits = False
        self.act(lambda: self.clock.advance(1))

    # Tools.

    @precondition(lambda self: self.those("tools"))
    @rule(number=which, place=which, code=st.sampled_from([None, "tool_failed"]))
    def end_tool(self, number: int, place: int, code: str | None) -> None:
        _, expected = self.pick("tools", number)
        calls = [call for call in expected.running.calls if call.code == ""]
        call = calls[place % len(calls)]

        async def end() -> None:
            call.code = code
            self.tools["again" if call.idempotent else "once"].end(call.id, code)

        done = [expected.tool_outputs] if len(calls) == 1 else []
        asks = [NOTHING] if done and expected.asks_next else []
        self.act(end, *done, *asks)

    # Interrupts, faults, the end.

    @rule(number=which)
    def interrupt(self, number: int) -> None:
        found = list(self.expected)
        if not found:
            return
        session = found[number % len(found)]
        expected = self.expected[session]
        commits = [expected.mark, expected.stop] if expected.turn else [NOTHING]
        found_turn = self.act(lambda: self.server.inputs.interrupt(OWNER, AGENT, session, lambda found: None), *commits)
        assert not isinstance(found_turn, SessileError)

    @rule()
    def crash(self) -> None:
        self.runner.run(self.killed())

    @rule(commit=st.integers(1, 3), when=st.sampled_from(["before", "after"]))
    def crash_at(self, commit: int, when: When) -> None:
        """The server will be killed at one of the next commits, whatever that is then."""
        self.fuse = commit, when
        self.server.life.kill_at(commit, when)

    @rule(announcements=st.integers(1, 3))
    def lose_announcements(self, announcements: int) -> None:
        self.server.sink.lose(announcements)

    @rule()
    def set_the_clock_back(self) -> None:
        self.shifted.shift(-3600)

    @rule(number=which)
    def delete(self, number: int) -> None:
        """Delete a session; one that is gone is made anew."""
        session = SESSIONS[number % len(SESSIONS)]
        if session not in self.expected:
            self.create(session)
            return
        gone = self.expected[session]
        followers = [follower for follower in self.followers if follower.session == session]

        def deleted() -> None:
            del self.expected[session]

        # A turn that runs tries to keep what some tools have answered, and is refused.
        refused = [NOTHING] if gone.turn and any(call.code != "" for call in gone.turn.calls) else []
        lives = self.server.life
        self.act(lambda: self.server.sessions.delete(OWNER, AGENT, session, None), deleted, *refused)
        if session not in self.expected and self.server.life is lives:
            self.runner.run(self._ended(followers))
        self.forget_followers()

    async def _ended(self, followers: list[Follower]) -> None:
        for follower in followers:
            follower.going.set()
            if follower.connected:
                await follower.saw(None, "deleted")
            await follower.disconnect()

    # Followers.

    @precondition(lambda self: self.expected and len(self.followers) < 4)
    @rule(number=which, place=which)
    def follow(self, number: int, place: int) -> None:
        """From any place of the log."""
        session = list(self.expected)[number % len(self.expected)]

        async def follow() -> None:
            ids = ["start", *(event["id"] for event in await self.server.log(session))]
            follower = Follower(session, ids[place % len(ids)])
            self.followers.append(follower)
            await follower.connect(self.server)

        self.act(follow)

    @precondition(lambda self: self.followers)
    @rule(number=which, how=st.sampled_from(["cut", "come back", "stop reading", "read"]))
    def move_follower(self, number: int, how: str) -> None:
        follower = self.followers[number % len(self.followers)]
        self.restless = None

        async def move() -> None:
            if how in ("cut", "come back"):
                await follower.disconnect()
            if how == "come back":
                await follower.connect(self.server)
            if how == "stop reading":
                follower.going.clear()
            if how == "read":
                follower.going.set()

        self.act(move)

    @precondition(lambda self: self.followers)
    @rule(number=which, turns=st.integers(0, 12))
    def come_back_in_the_middle(self, number: int, turns: int) -> None:
        self.restless = self.followers[number % len(self.followers)], turns


TestSessions = Sessions.TestCase
TestSessions.settings = hypothesis.settings(
    max_examples=50,
    stateful_step_count=30,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate],  # shrinking takes minutes
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
