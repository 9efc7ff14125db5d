"""Sessions under anything that may happen to them: inputs, answers, tools, clients, interrupts, kills, stops, stalls,
lost wake-ups and hand-offs, followers.

The real service, runner, live and store, step by step: after each step the logs are what a small model of them says,
and each follower has seen exactly its log. New kinds of input are rules here; faults are rules in `session_faults`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from incarnation import AGENT, OWNER
from property.session_faults import Faults
from property.session_model import MAX_RETRIES, Call, Input
from property.session_stage import Doing, aside, content_of, disturbance, nothing, which
from sessile.domain.messages import ToolCall
from sessile.live.tail import Tail
from sessile.ports import ModelFault, TextDelta, ThinkingDelta
from sessile.rows import Answered, Claim, Once, Queued, Rejoined
from sessile.service.inputs import parse
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

rarely = st.sampled_from([False, False, False, True])
behaviors = st.sampled_from([None, "steer", "follow_up"])


class Sessions(Faults):
    """Inputs, and what models, tools and clients do with them."""

    def __init__(self) -> None:
        super().__init__()
        self.posts: dict[str, Callable[[str], Doing]] = {}
        """How to send again what came with an idempotency key, perhaps with another content."""

    # Inputs.

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

    @precondition(lambda self: self.running)
    @rule(number=which, behavior=behaviors, keyed=st.booleans())
    def say_while_it_runs(self, number: int, behavior: Behavior | None, keyed: bool) -> None:
        """An input to a session whose turn runs, or waits for whatever."""
        session = self.running[number % len(self.running)]
        input = self.an_input(session, behavior, keyed)
        commits = self.expected[session].say(input) if behavior else nothing()
        found = self.act(self.post(session, input), commits)
        assert found is None or isinstance(found, Queued if behavior else SessionRunning)

    @precondition(lambda self: any(expected.keys for expected in self.expected.values()))
    @aside(number=which, same=st.booleans())
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
            assert content_of(found.input.body) == input.content
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
    @aside(number=which, place=which)
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
    @aside(number=which)
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
    @rule(
        number=which, kinds=st.lists(st.sampled_from(["once", "again", "ask", "ask", "nobody"]), min_size=1, max_size=3)
    )
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
        commits = None if turn.waits else expected.fail("model_unavailable")
        self.act(lambda: self.puppets.model.open[session].put(fault), commits)

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
        self, session: str, codes: Sequence[tuple[str, str | None]], outputs: Input, fingerprint: str | None = None
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
    @aside(number=which, how=st.sampled_from(["doubled", "unknown"]))
    def answer_wrongly(self, number: int, how: str) -> None:
        """A call that waits, and with it one that does not: all or nothing."""
        session, expected = self.pick("clients", number)
        call = expected.running.calls[0].id
        codes = [(call, None), (call if how == "doubled" else "aev_0", None)]
        refusal = self.act(self.hand_in(session, codes, Input("outputs")), nothing())
        assert refusal is None or isinstance(refusal, ToolCallNotOutstanding)

    @precondition(lambda self: any(one.called for one in self.expected.values()))
    @aside(number=which, place=which)
    def answer_too_late_or_too_early(self, number: int, place: int) -> None:
        """A call that does not wait for a client."""
        session = (known := [key for key, one in self.expected.items() if one.called])[number % len(known)]
        expected = self.expected[session]
        call = expected.called[place % len(expected.called)]
        refusal = self.act(self.hand_in(session, [(call, None)], Input("outputs")), nothing())
        wanted = SessionRunning if expected.may_wait(call) else ToolCallNotOutstanding
        assert refusal is None or isinstance(refusal, wanted)

    # Interrupts.

    @precondition(lambda self: self.expected)
    @disturbance(number=which, lose=rarely)
    def interrupt(self, number: int, lose: bool) -> None:
        session = list(self.expected)[number % len(self.expected)]
        commits = self.expected[session].interrupt(lost=lose)
        found = self.act(
            lambda: self.server.inputs.interrupt(OWNER, AGENT, session, lambda found: None), commits, lose=lose
        )
        assert not isinstance(found, SessileError)


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
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
