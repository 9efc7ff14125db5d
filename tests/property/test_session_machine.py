"""Sessions under anything that may happen to them: inputs, answers, tools, clients, interrupts, kills, stops, stalls,
lost wake-ups and hand-offs, followers.

The real service, runner, live and store, step by step: after each step the logs are what a small model of them says,
and each follower has seen exactly its log. New kinds of input, and faults, are rules of the machine.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from incarnation import AGENT, OWNER, Incarnation, ToolBox
from log_rules import problems
from property.puppets import Puppets
from property.session_follower import Follower
from property.session_model import MAX_RETRIES, Call, Commits, Expected, Input, brief
from sessile.domain.messages import ToolCall
from sessile.live.tail import Tail
from sessile.ports import ModelFault, TextDelta, ThinkingDelta
from sessile.rows import LEASE_SECONDS, Answered, Claim, Once, Queued, Rejoined
from sessile.service.inputs import parse
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.faults import ShiftedClock, When
from sessile.testing.scripted_model import ScriptedModels
from sessile.wire.errors import (
    IdempotencyKeyReused,
    InputTaken,
    InputWithdrawn,
    NotFound,
    SessileError,
    SessionRunning,
    ToolCallNotOutstanding,
)
from sessile.wire.inputs import Behavior
from sessile.wire.sessions import CreateSessionRequest

SESSIONS = ("s0", "s1")
HEARTBEAT = 0.01
CALM = 40
"""Turns of the event loop in which nothing was under way."""
SETBACK_SECONDS = 60
PATIENCE = 20.0
Doing = Callable[[], Awaitable[Any]]
which = st.integers(0, 100)
rarely = st.sampled_from([False, False, False, True])
behaviors = st.sampled_from([None, "steer", "follow_up"])


def nothing() -> Commits:
    """A commit of which a log shows nothing."""
    return repeat(None, 1)


def made(commits: Iterable[None]) -> None:
    """Let all commits be made."""
    for _ in commits:
        pass


class Sessions(RuleBasedStateMachine):
    """One server, life after life."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="sessile-machine-"))
        self.clock = FakeClock()
        self.set_back = 0
        """Seconds that the clock was set back by."""
        self.starts = Counter[str]()
        self.expected: dict[str, Expected] = {}
        self.posts: dict[str, Callable[[str], Doing]] = {}
        """How to send again what came with an idempotency key, perhaps with another content."""
        self.followers: list[Follower] = []
        self.stalled: tuple[Incarnation, Puppets] | None = None
        """A life that has lost its turns to the one after it, and does not know it yet."""
        self.fuse: tuple[int, When] | None = None
        """The commit at which the server will be killed."""
        self.restless: tuple[Follower, int] | None = None
        """A follower that comes back in the middle of the next step, after so many turns of the event loop."""
        self.sound = False
        """Whether the last step was as it should be."""
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

    def act(self, doing: Doing, commits: Iterable[None] = (), *, lose: bool = False) -> Any:
        """Do something, and let the model make the commits that it should make, up to a kill.

        Returns what came of it, also a refusal; None when the server was killed. `lose`: nobody gets the turn.
        """
        self.sound = False
        self.server.queue.lose(lose)
        return self.runner.run(self._act(doing, commits))

    async def _act(self, doing: Doing, commits: Iterable[None]) -> Any:
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
        number, burnt = 0, False
        for number, _ in enumerate(commits, 1):
            if burnt := self._burns(iter(commits)):
                break
        assert self.server.life.killed == burnt, "it made other commits than it should"
        if burnt:
            await self.killed()
            return None
        assert self.server.life.writes - before == number, "it made more or fewer commits than it should"
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

    def undisturbed(self, step: Callable[[], Awaitable[None]]) -> None:
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

    def a_name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

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
            assert (row.status == "running") == (expected.turn is not None and not expected.pending)
            waiting = await self.server.inputs.waiting(OWNER, AGENT, session)
            assert [(_content(one.body), one.behavior) for one in waiting] == [
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

    # Inputs.

    def create(self, session: str) -> None:
        def created() -> Commits:
            yield
            self.expected[session] = Expected()

        self.act(lambda: self.server.sessions.create(OWNER, AGENT, CreateSessionRequest(key=session)), created())

    def post(self, session: str, input: Input, fingerprint: str | None = None) -> Doing:
        behavior: Any = input.behavior

        async def post() -> Claim | Rejoined | Queued:
            request: Any = parse({"content": input.content})
            once = _once(input, fingerprint)
            accepted, tail = await self.server.inputs.accept(
                OWNER, AGENT, session, request, self.attach, once, behavior=behavior
            )
            tail.close()
            return accepted

        return post

    def attach(self, accepted: Claim | Rejoined | Queued | Answered) -> Tail:
        return self.server.hub.follow(accepted.session.id, accepted.session.last_sequence)

    def an_input(self, session: str, behavior: Behavior | None, keyed: bool) -> Input:
        input = Input(self.a_name(f"{session}/"), behavior, self.a_name("key") if keyed else None)
        if input.key is not None:
            self.posts[input.key] = lambda fingerprint: self.post(session, input, fingerprint)
        return input

    @precondition(lambda self: self.those("input"))
    @rule(number=which, behavior=behaviors, keyed=st.booleans(), lose=rarely)
    def say(self, number: int, behavior: Behavior | None, keyed: bool, lose: bool) -> None:
        """An input to an idle session, with a behavior or without."""
        session, expected = self.pick("input", number)
        input = self.an_input(session, behavior, keyed)
        claim = self.act(self.post(session, input), expected.say(input, lost=lose), lose=lose)
        assert claim is None or isinstance(claim, Claim)

    @precondition(lambda self: any(expected.turn for expected in self.expected.values()))
    @rule(number=which, behavior=behaviors, keyed=st.booleans())
    def say_while_it_runs(self, number: int, behavior: Behavior | None, keyed: bool) -> None:
        """An input to a session whose turn runs, or waits for whatever."""
        session = (running := [key for key, one in self.expected.items() if one.turn])[number % len(running)]
        input = self.an_input(session, behavior, keyed)
        commits = self.expected[session].say(input) if behavior else nothing()
        found = self.act(self.post(session, input), commits)
        assert found is None or isinstance(found, Queued if behavior else SessionRunning)

    @precondition(lambda self: any(expected.keys for expected in self.expected.values()))
    @rule(number=which, same=st.booleans())
    def send_again(self, number: int, same: bool) -> None:
        """The same key again: it comes to what the first one has become, or is refused when it is another request."""
        known = [input for expected in self.expected.values() for input in expected.keys.values()]
        input = known[number % len(known)]
        assert input.key is not None
        found = self.act(self.posts[input.key](input.content if same else "other"), nothing())
        if found is None:
            return
        if not same:
            assert isinstance(found, IdempotencyKeyReused)
        elif input.withdrawn:
            assert isinstance(found, InputWithdrawn)
        elif input.place is None:
            assert isinstance(found, Queued)
            assert _content(found.input.body) == input.content
        else:
            assert isinstance(found, Rejoined)
            assert found.opened[0].sequence == input.place

    @precondition(lambda self: any(expected.waiting for expected in self.expected.values()))
    @rule(number=which, place=which)
    def withdraw(self, number: int, place: int) -> None:
        """One that waits."""
        session = (queues := [key for key, one in self.expected.items() if one.waiting])[number % len(queues)]
        expected = self.expected[session]
        place %= len(expected.waiting)

        async def withdraw() -> None:
            waiting = await self.server.inputs.waiting(OWNER, AGENT, session)
            await self.server.inputs.withdraw(OWNER, AGENT, session, waiting[place].event_id)

        assert self.act(withdraw, expected.withdraw(expected.waiting[place])) is None

    @precondition(lambda self: any(expected.log for expected in self.expected.values()))
    @rule(number=which, place=which)
    def withdraw_too_late(self, number: int, place: int) -> None:
        """One that stands in the log, by the id that it has there."""
        session = (known := [key for key, one in self.expected.items() if one.log])[number % len(known)]

        async def withdraw() -> None:
            inputs = [event for event in await self.server.log(session) if event["type"] == "input_message"]
            await self.server.inputs.withdraw(OWNER, AGENT, session, inputs[place % len(inputs)]["id"])

        refusal = self.act(withdraw, nothing())
        assert refusal is None or isinstance(refusal, InputTaken | NotFound)

    # The model.

    @precondition(lambda self: self.those("model"))
    @rule(number=which, text=st.text("ab \n\u2028é", min_size=1, max_size=4))
    def speak(self, number: int, text: str) -> None:
        session, expected = self.pick("model", number)
        expected.running.text += text
        self.act(lambda: self.puppets.model.open[session].put(TextDelta(text)))

    @precondition(lambda self: self.those("model"))
    @rule(number=which)
    def think(self, number: int) -> None:
        session, expected = self.pick("model", number)
        expected.running.thinking += "hm "
        self.act(lambda: self.puppets.model.open[session].put(ThinkingDelta("hm ")))

    @precondition(lambda self: self.those("model"))
    @rule(number=which)
    def finish_answer(self, number: int) -> None:
        session, expected = self.pick("model", number)
        self.act(lambda: self.puppets.model.open[session].put(None), expected.finish())

    @precondition(lambda self: self.those("model"))
    @rule(number=which, kinds=st.lists(st.sampled_from(["once", "again", "ask", "nobody"]), min_size=1, max_size=3))
    def call_tools(self, number: int, kinds: list[str]) -> None:
        session, expected = self.pick("model", number)
        calls = [Call(self.a_name("call_"), kind, "tool_unknown" if kind == "nobody" else "") for kind in kinds]

        async def call() -> None:
            steps = self.puppets.model.open[session]
            for one in calls:
                steps.put_nowait(ToolCall(one.id, one.kind, f'{{"id": "{one.id}"}}'))
            steps.put_nowait(None)

        self.act(call, expected.call(calls))

    @precondition(lambda self: self.those("model"))
    @rule(number=which, retryable=st.booleans())
    def break_model(self, number: int, retryable: bool) -> None:
        session, expected = self.pick("model", number)
        turn = expected.running
        turn.failures += 1
        turn.waits = retryable and turn.failures <= MAX_RETRIES and not (turn.text or turn.thinking)
        fault = ModelFault("model_unavailable", "It broke.", retryable=retryable)
        commits = () if turn.waits else expected.fail("model_unavailable")
        self.act(lambda: self.puppets.model.open[session].put(fault), commits)

    @precondition(lambda self: self.those("time"))
    @rule()
    def let_time_pass(self) -> None:
        self.act(lambda: self.pass_time(1))

    async def pass_time(self, seconds: float) -> None:
        """Those that wait for time go on."""
        for session in self.those("time"):
            self.expected[session].running.waits = False
        await self.clock.advance(seconds)

    # Tools.

    @precondition(lambda self: self.those("tools"))
    @rule(number=which, place=which, code=st.sampled_from([None, "tool_failed"]))
    def end_tool(self, number: int, place: int, code: str | None) -> None:
        _, expected = self.pick("tools", number)
        calls = [call for call in expected.running.calls if call.code == "" and call.kind in self.puppets.tools]
        call = calls[place % len(calls)]

        async def end() -> None:
            self.puppets.tools[call.kind].end(call.id, code)

        call.code = code
        self.act(end, expected.go_on())

    # Clients.

    def hand_in(
        self, session: str, codes: list[tuple[str, str | None]], outputs: Input, fingerprint: str | None = None
    ) -> Doing:
        """Answer calls, known by their ids."""

        async def hand_in() -> Answered | Rejoined:
            log = await self.server.log(session)
            ids = {event["tool_call_id"]: event["id"] for event in log if event["type"] == "tool_input"}
            given = [_given(ids.get(call_id, call_id), code) for call_id, code in codes]
            request: Any = parse({"type": "tool_output", "tool_outputs": given})
            once = _once(outputs, fingerprint)
            found, tail = await self.server.inputs.answer_calls(OWNER, AGENT, session, request, self.attach, once)
            tail.close()
            return found

        return hand_in

    @precondition(lambda self: self.those("clients"))
    @rule(
        number=which,
        places=st.lists(which, min_size=1, max_size=3),
        code=st.sampled_from([None, "tool_failed"]),
        keyed=st.booleans(),
        lose=rarely,
    )
    def answer_calls(self, number: int, places: list[int], code: str | None, keyed: bool, lose: bool) -> None:
        """All calls that wait, or some of them, in any order."""
        session, expected = self.pick("clients", number)
        calls = expected.running.calls
        codes = {calls[place % len(calls)].id: code for place in places}
        outputs = Input(self.a_name("outputs"), key=self.a_name("key") if keyed else None)
        given = list(codes.items())
        if outputs.key is not None:
            self.posts[outputs.key] = lambda fingerprint: self.hand_in(session, given, outputs, fingerprint)
        commits = expected.answer(outputs, codes, lost=lose)
        found = self.act(self.hand_in(session, given, outputs), commits, lose=lose)
        assert found is None or isinstance(found, Answered)

    @precondition(lambda self: self.those("clients"))
    @rule(number=which, how=st.sampled_from(["doubled", "unknown"]))
    def answer_wrongly(self, number: int, how: str) -> None:
        """A call that waits, and with it one that does not: all or nothing."""
        session, expected = self.pick("clients", number)
        call = expected.running.calls[0].id
        codes = [(call, None), (call if how == "doubled" else "aev_0", None)]
        refusal = self.act(self.hand_in(session, codes, Input("outputs")), nothing())
        assert refusal is None or isinstance(refusal, ToolCallNotOutstanding)

    @precondition(lambda self: any(one.called for one in self.expected.values()))
    @rule(number=which, place=which)
    def answer_too_late_or_too_early(self, number: int, place: int) -> None:
        """A call that does not wait for a client."""
        session = (known := [key for key, one in self.expected.items() if one.called])[number % len(known)]
        expected = self.expected[session]
        call = expected.called[place % len(expected.called)]
        refusal = self.act(self.hand_in(session, [(call, None)], Input("outputs")), nothing())
        wanted = SessionRunning if expected.may_wait(call) else ToolCallNotOutstanding
        assert refusal is None or isinstance(refusal, wanted)

    # Interrupts, faults, the end.

    @precondition(lambda self: self.expected)
    @rule(number=which, lose=rarely)
    def interrupt(self, number: int, lose: bool) -> None:
        session = list(self.expected)[number % len(self.expected)]
        commits = self.expected[session].interrupt(lost=lose)
        found = self.act(
            lambda: self.server.inputs.interrupt(OWNER, AGENT, session, lambda found: None), commits, lose=lose
        )
        assert not isinstance(found, SessileError)

    @rule()
    def crash(self) -> None:
        self.runner.run(self.killed())

    @rule(commit=st.integers(1, 3), when=st.sampled_from(["before", "after"]))
    def crash_at(self, commit: int, when: When) -> None:
        """The server will be killed at one of the next commits, whatever that is then."""
        self.fuse = commit, when
        self.server.life.kill_at(commit, when)

    @rule(finishing=st.booleans())
    def stop(self, finishing: bool) -> None:
        """A polite stop, in which models may finish their answers, and the next start."""
        self.undisturbed(lambda: self._stop(finishing))

    async def _stop(self, finishing: bool) -> None:
        all_speak = not self.those("tools", "time")
        stopping = asyncio.create_task(self.server.stop(PATIENCE if finishing and all_speak else 0))
        await asyncio.sleep(0)
        for session in self.those("model") if finishing and all_speak else ():
            await self.puppets.model.open[session].put(None)
            made(self.expected[session].finish())
        left = {session for session in self.those("model", "tools", "time")}
        await stopping
        for session in left:
            self.expected[session].leave()
        for follower in self.followers:
            if follower.connected and follower.going.is_set():
                await follower.saw(None, "drain")
            await follower.disconnect()
        await self.end_stalled()
        await self.server.end()
        self.next_life(await SqliteStore.open(self.folder / "s.db", self.shifted))
        await self.server.worker.recover()
        await self.settle()
        for session, expected in self.expected.items():
            made(expected.take_up(counts=session not in left))
        await self.come_back()

    @rule()
    def let_leases_pass(self) -> None:
        """The worker keeps what it runs, and takes up what nobody runs."""
        self.undisturbed(self._let_leases_pass)

    async def _let_leases_pass(self) -> None:
        await self.pass_time(self.set_back + LEASE_SECONDS)
        self.set_back = 0
        await self.server.worker.tend_leases()
        await self.settle()
        for session in self.those("worker"):
            made(self.expected[session].take_up())

    @precondition(lambda self: self.those("model", "tools", "time"))
    @rule(writing=st.booleans())
    def stall(self, writing: bool) -> None:
        """The server stalls past its leases, perhaps right before it writes; another one takes its turns over."""
        self.undisturbed(lambda: self._stall(writing))

    async def _stall(self, writing: bool) -> None:
        await self.end_stalled()
        self.stalled = self.server, self.puppets
        self.server.life.stall()
        if writing:
            for steps in self.puppets.model.open.values():
                steps.put_nowait(None)
        await self.settle()
        await self.pass_time(self.set_back + LEASE_SECONDS)
        await self.settle()
        self.set_back = 0
        self.next_life(self.server.database)
        await self.server.worker.tend_leases()
        await self.settle()
        for expected in self.expected.values():
            made(expected.take_up())
        await self.come_back()

    @precondition(lambda self: self.stalled)
    @rule(looks=st.booleans())
    def wake_up(self, looks: bool) -> None:
        """The stalled one goes on, perhaps with a look at its leases first, and changes nothing."""
        self.undisturbed(lambda: self._wake_up(looks))

    async def _wake_up(self, looks: bool) -> None:
        assert self.stalled is not None
        stalled, puppets = self.stalled
        if looks:
            await self._let_leases_pass()
        stalled.life.resume()
        if looks:
            await stalled.worker.tend_leases()
            await self.settle()
        puppets.let_go()
        await self.settle()
        assert not puppets.model.open
        await self.end_stalled()

    @rule(announcements=st.integers(1, 3))
    def lose_announcements(self, announcements: int) -> None:
        self.server.sink.lose(announcements)

    @rule()
    def set_the_clock_back(self) -> None:
        self.set_back += SETBACK_SECONDS
        self.shifted.shift(-SETBACK_SECONDS)

    @rule(number=which)
    def delete(self, number: int) -> None:
        """Delete a session; one that is gone is made anew."""
        session = SESSIONS[number % len(SESSIONS)]
        if session not in self.expected:
            self.create(session)
            return
        gone = self.expected[session]
        followers = [follower for follower in self.followers if follower.session == session]

        def deleted() -> Commits:
            yield
            del self.expected[session]
            if gone.turn and any(call.code != "" for call in gone.turn.calls):
                yield  # its turn tries to keep what some tools have answered, and is refused

        lives = self.server.life
        self.act(lambda: self.server.sessions.delete(OWNER, AGENT, session, None), deleted())
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


def _content(body: bytes) -> str:
    content: str = msgspec.json.decode(body)["content"]
    return content


def _once(input: Input, fingerprint: str | None) -> Once | None:
    return None if input.key is None else Once(input.key, (fingerprint or input.content).encode())


def _given(event_id: str, code: str | None) -> dict[str, Any]:
    """A client's word of one call."""
    if code is None:
        return {"type": "success", "event_id": event_id, "output": {}}
    return {"type": "error", "event_id": event_id, "error": "It did not work."}


TestSessions = Sessions.TestCase
TestSessions.settings = hypothesis.settings(
    max_examples=50,
    stateful_step_count=30,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate],  # shrinking takes minutes
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
