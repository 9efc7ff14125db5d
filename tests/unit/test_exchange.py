"""Deltas between nodes: what a follower elsewhere is shown is the text, whatever is lost, late, or moves."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessile.api.follow import Following
from sessile.domain.log import Entry, draft
from sessile.live import exchange
from sessile.live.hub import Hub
from sessile.live.messages import Leave, Piece, Start, Want, decode, encode
from sessile.live.mirror import MAX_WAITING, Mirror
from sessile.live.tail import Tail
from sessile.rows import EventQuery, Page
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import (
    AgentOutputEvent,
    Event,
    SessionState,
    StreamingAgentOutput,
    StreamingThinking,
    ThinkingEvent,
    TurnEndedRecord,
    TurnStartedRecord,
)
from sessile.wire.sessions import Usage

SESSION = 1
NEVER = 3600.0
STATE = SessionState(status="running", stop_reason=None, turn_id=None, last_event_id=None)


class Log:
    """A Store that has one log."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.reads = 0
        self.failing = False

    def commit(self, turn: int, *events: Event) -> list[Entry]:
        new = []
        for event in events:
            made, number = draft(event), len(self.entries) + 1
            new.append(Entry(f"aev_{number:04}", "chat", number, f"trn_{turn}", made.type, 0, False, made.body))
            self.entries.append(new[-1])
        return new

    async def heads(self, session_ids: Any) -> dict[int, int]:
        return {session_id: len(self.entries) for session_id in session_ids}

    async def withdrawn_inputs(self, *_: Any) -> list[str]:
        return []

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.failing:
            raise StorageUnavailable
        found = [entry for entry in self.entries if entry.sequence > (query.cursor or 0)]
        page = found[: query.limit]
        return Page(page, page[-1].sequence if len(found) > len(page) else None)


class Post:
    """Carries messages between nodes, when it is told to."""

    def __init__(self) -> None:
        self.heard: dict[str, Callable[[str, bytes | None], None]] = {}
        self.waiting: deque[tuple[str, str, bytes]] = deque()
        self.sent: list[Any] = []

    def node(self, name: str) -> "Desk":
        return Desk(self, name)

    def deliver(self, times: int = 1) -> None:
        for _ in range(min(times, len(self.waiting))):
            sender, to, line = self.waiting.popleft()
            self.heard[to](sender, line)

    def lose(self) -> None:
        if self.waiting:
            self.waiting.popleft()


class Desk:
    """The `Relay` of one node."""

    def __init__(self, post: Post, name: str) -> None:
        self._post, self._name = post, name

    def send(self, message: bytes, node: str | None = None) -> None:
        assert b"\n" not in message
        self._post.sent.append(decode(message))
        for to in [other for other in self._post.heard if other != self._name] if node is None else [node]:
            self._post.waiting.append((self._name, to, message))

    def receive(self, heard: Callable[[str, bytes | None], None]) -> None:
        self._post.heard[self._name] = heard


class Reader:
    """A client that follows, and checks each frame against what was said."""

    def __init__(self, tail: Tail, said: dict[str, str], cursor: int) -> None:
        self.tail = tail
        self.texts: dict[str, str] = {}
        self.thoughts: dict[str, str] = {}
        self.durable: list[int] = []
        self._said = said
        self.cursor = cursor
        self._view = Following("aev_0", STATE, deltas=True, include_hidden=False)
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self.tail.closed:
            for block in self._view.render(await self.tail.next()).split(b"\n\n"):
                lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if line)
                if lines:
                    self._take(msgspec.json.decode(lines[b"data"]), durable=b"id" in lines)

    def _take(self, shown: dict[str, Any], durable: bool) -> None:
        if durable:
            self.durable.append(shown["sequence"])
            assert self.durable == list(range(self.cursor + 1, self.cursor + 1 + len(self.durable)))
        if shown["type"] == "streaming_agent_output":
            text = self.texts.get(shown["output_id"], "")
            assert shown["offset"] == len(text), "a gap, or text twice"
            self.texts[shown["output_id"]] = text = text + shown["content"]
            assert self._said[shown["output_id"]].startswith(text)
        elif shown["type"] == "streaming_agent_output_end" and "event_id" not in shown:
            self.texts.pop(shown["output_id"], None)
        elif shown["type"] == "streaming_thinking":
            self.thoughts[shown["output_id"]] = self.thoughts.get(shown["output_id"], "") + shown["content"]
        elif shown["type"] == "agent_output" and shown["output_id"] in self.texts:
            assert self.texts[shown["output_id"]] == shown["content"]

    def check(self) -> None:
        """Raise what went wrong."""
        if self._task.done():
            self._task.result()

    async def leave(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self.tail.close()
        if not self._task.cancelled():
            self._task.result()


class World:
    """Three nodes on one log; a turn that runs on one of them."""

    def __init__(self) -> None:
        self.log, self.post = Log(), Post()
        self.hubs = {name: Hub(self.log, NEVER) for name in "abc"}  # type: ignore[arg-type]
        for name, hub in self.hubs.items():
            hub.connect(self.post.node(name))
        self.runs = "a"
        self.said: dict[str, str] = {}
        self.readers: list[Reader] = []
        self._turn = 0
        self._thought = 0
        self.begin()

    @property
    def output_id(self) -> str:
        return f"out_{len(self.said)}"

    @property
    def text(self) -> str:
        return self.said[self.output_id]

    def begin(self) -> None:
        """The next turn."""
        self._turn += 1
        self._write(TurnStartedRecord(input_event_id="aev_0"))
        self._next_output()

    def end(self) -> None:
        self._write(
            AgentOutputEvent(content=self.text, output_id=self.output_id),
            TurnEndedRecord(stop_reason="end_turn", error=None, usage=Usage()),
        )

    def go_on(self) -> None:
        """An output ends, and the turn goes on."""
        self._write(
            ThinkingEvent(content="Hm.", output_id=self.output_id),
            AgentOutputEvent(content=self.text, output_id=self.output_id),
        )
        self._next_output()

    def speak(self, text: str) -> None:
        delta = StreamingAgentOutput(
            content=text, output_id=self.output_id, offset=len(self.text), turn_id=f"trn_{self._turn}", created_at=""
        )
        self.said[self.output_id] += text
        self.hubs[self.runs].publish(SESSION, delta)

    def think(self, text: str) -> None:
        delta = StreamingThinking(
            content=text, output_id=self.output_id, offset=self._thought, turn_id=f"trn_{self._turn}", created_at=""
        )
        self._thought += len(text)
        self.hubs[self.runs].publish(SESSION, delta)

    def move(self, to: str, *, noticed: bool = True) -> None:
        """The turn is taken up elsewhere; what was shown is void."""
        if to != self.runs:
            if noticed:
                self.hubs[self.runs].left(SESSION)
            self.runs = to
            self._next_output()

    def follow(self, where: str) -> Reader:
        cursor = len(self.log.entries)
        self.readers.append(Reader(self.hubs[where].follow(SESSION, cursor, joins=True), self.said, cursor))
        return self.readers[-1]

    async def wake(self, where: str) -> None:
        await self.hubs[where].look({SESSION})

    def beat(self) -> None:
        for hub in self.hubs.values():
            assert hub._exchange is not None
            hub._exchange.beat()

    async def settle(self) -> None:
        """Nothing is lost from now on."""
        for _ in range(30):
            self.post.deliver(1000)
            for _ in range(4):
                await asyncio.sleep(0)

    async def heal(self) -> None:
        """A wake-up and a heartbeat everywhere."""
        for _ in range(2):
            for name in self.hubs:
                await self.wake(name)
            self.beat()
            await self.settle()

    async def close(self) -> None:
        for reader in self.readers:
            await reader.leave()

    def messages(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.post.sent)

    def _write(self, *events: Event) -> None:
        self.hubs[self.runs].announce(SESSION, self.log.commit(self._turn, *events))

    def _next_output(self) -> None:
        self.said[f"out_{len(self.said) + 1}"] = ""
        self._thought = 0


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "_PAUSE_SECONDS", 0.0)


async def started() -> tuple[World, Reader]:
    """A turn on one node, and a follower on another who has seen the first words."""
    world = World()
    reader = world.follow("b")
    await world.settle()
    world.speak("It left ")
    await world.settle()
    assert reader.texts == {"out_1": "It left "}
    return world, reader


async def test_a_follower_elsewhere_sees_the_text_as_it_is_said() -> None:
    world, reader = await started()
    world.speak("the warehouse.")
    await world.settle()
    assert reader.texts["out_1"] == "It left the warehouse."
    world.end()
    await world.wake("b")
    await world.settle()
    assert reader.durable == [2, 3]
    await world.close()


async def test_who_joins_in_the_middle_gets_the_text_so_far() -> None:
    world, _ = await started()
    late, elsewhere = world.follow("b"), world.follow("c")
    await world.settle()
    assert late.texts == elsewhere.texts == {"out_1": "It left "}
    await world.close()


async def test_nothing_is_sent_where_all_followers_are_on_the_node_that_runs_the_turn() -> None:
    world = World()
    reader = world.follow("a")
    await world.settle()
    for _ in range(3):
        world.speak("Word.")
        world.go_on()
        world.beat()
    world.end()
    await world.settle()
    assert reader.durable
    assert world.post.sent == []
    await world.close()


async def test_nobody_is_sent_anything_whose_last_follower_has_left() -> None:
    world, reader = await started()
    await reader.leave()
    await world.settle()
    before = world.messages(Piece)
    world.speak("the warehouse.")
    assert (world.messages(Leave), world.messages(Piece)) == (1, before)
    assert SESSION not in world.hubs["b"]._channels


async def test_interest_ends_without_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = await started()
    before, now = world.messages(Piece), asyncio.get_running_loop().time()
    sender = world.hubs["a"]._exchange
    assert sender is not None
    monkeypatch.setattr(sender, "_now", lambda: now + 2 * NEVER)
    world.speak("the ")
    assert world.messages(Piece) == before + 1
    world.beat()
    await world.settle()
    monkeypatch.setattr(sender, "_now", lambda: now + 4 * NEVER)
    world.speak("ware")
    assert world.messages(Piece) == before + 2
    monkeypatch.setattr(sender, "_now", lambda: now + 6 * NEVER)
    world.speak("house.")
    assert world.messages(Piece) == before + 2
    await world.close()


async def test_a_gap_is_healed_with_the_text_so_far() -> None:
    world, reader = await started()
    world.speak("the ")
    world.post.lose()
    world.speak("warehouse.")
    await world.settle()
    assert reader.texts["out_1"] == "It left the warehouse."
    assert world.messages(Start) == 2
    await world.close()


async def test_a_gap_in_the_thinking_ends_what_is_shown_of_it() -> None:
    world, reader = await started()
    world.go_on()
    for word in ("Is ", "that ", "so?"):
        world.think(word)
    world.post.deliver()
    world.post.lose()
    await world.settle()
    assert reader.thoughts == {"out_2": "Is "}
    await world.close()


async def test_frames_wait_for_the_log_before_them() -> None:
    world, reader = await started()
    world.go_on()
    world.speak("Next.")
    await world.settle()
    assert reader.durable == [2, 3]
    assert reader.texts == {"out_1": "It left ", "out_2": "Next."}
    await world.close()


async def test_frames_that_come_after_the_end_of_their_output_are_dropped() -> None:
    world, reader = await started()
    world.speak("late")
    world.go_on()
    await world.wake("b")
    for _ in range(10):
        await asyncio.sleep(0)
    assert reader.texts == {"out_1": "It left late"}
    await world.settle()
    assert world.hubs["b"]._channels[SESSION].output is None
    await world.close()


async def test_a_log_that_cannot_be_read_costs_the_frames_that_wait_for_it() -> None:
    world, reader = await started()
    world.go_on()
    world.log.failing = True
    world.speak("Lost. ")
    await world.settle()
    assert list(reader.texts) == ["out_1"]
    world.log.failing = False
    world.speak("Shown.")
    await world.settle()
    assert reader.texts["out_2"] == "Lost. Shown."
    assert reader.durable == [2, 3]
    await world.close()


async def test_a_log_that_is_gone_costs_the_frames_that_wait_for_it_and_nothing_else() -> None:
    world, reader = await started()
    mirror = _mirror(world, "b")
    world.go_on()
    world.speak("Gone.")
    world.log.entries.clear()
    world.post.deliver(1000)
    assert mirror._reading is not None
    await mirror._reading
    world.hubs["b"].close_session(SESSION)
    await world.settle()
    reader.check()
    assert reader.tail.closed == "deleted"
    await world.close()


async def test_the_turn_goes_on_at_another_node() -> None:
    world, reader = await started()
    world.move("c")
    world.speak("Once more.")
    world.beat()
    world.beat()
    await world.settle()
    assert reader.texts == {"out_2": "Once more."}
    world.move("b")
    world.speak("Here.")
    world.end()
    await world.settle()
    assert reader.texts["out_3"] == "Here."
    await world.close()


async def test_a_node_that_has_not_noticed_its_loss_is_not_believed() -> None:
    world, reader = await started()
    world.move("c", noticed=False)
    world.speak("New. ")
    world.beat()
    world.beat()
    await world.settle()
    stale = StreamingAgentOutput(content="the ware", output_id="out_1", offset=8, turn_id="trn_1", created_at="")
    world.hubs["a"].publish(SESSION, stale)
    await world.settle()
    world.speak("Text.")
    world.hubs["a"].left(SESSION)
    await world.heal()
    assert reader.texts["out_2"] == "New. Text."
    await world.close()


async def test_whoever_was_cut_off_asks_again() -> None:
    world, reader = await started()
    world.speak("the ")
    world.post.lose()
    world.post.heard["b"]("b", None)
    await world.settle()
    assert reader.texts["out_1"] == "It left the "
    await world.close()


async def test_what_waits_for_the_log_is_bounded() -> None:
    world, reader = await started()
    mirror = _mirror(world, "b")
    world.go_on()
    for _ in range(3 * MAX_WAITING):
        world.speak("x")
    world.post.deliver(3 * MAX_WAITING)
    assert len(mirror._waiting) <= MAX_WAITING
    await world.settle()
    await world.heal()
    assert reader.texts["out_2"] == world.text
    await world.close()


async def test_messages_of_other_versions_are_left_alone() -> None:
    world, reader = await started()
    world.post.heard["b"]("a", b'{"type":"later","session":1}')
    world.post.heard["b"]("a", b"not JSON")
    await world.settle()
    reader.check()
    await world.close()


def test_messages_are_one_line_each() -> None:
    delta = StreamingAgentOutput(content="a\nb\r\n\x00", output_id="o", offset=0, turn_id="t", created_at="")
    for message in (Want([1], []), Leave(1), Start(1, None, delta), Piece(1, 7, delta)):
        line = encode(message)
        assert b"\n" not in line
        assert encode(decode(line)) == line  # type: ignore[arg-type]


steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["speak", "speak", "speak", "think"]), st.text("abc", min_size=1, max_size=3)),
        st.tuples(st.sampled_from(["deliver"]), st.integers(1, 6)),
        st.tuples(st.sampled_from(["wake", "follow", "move"]), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["lose", "lose", "go_on", "next_turn", "beat", "run", "run", "leave", "cut"])),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(steps)
async def test_whatever_is_lost_or_late_the_text_is_right(taken: list[tuple[Any, ...]]) -> None:
    world = World()
    world.follow("b")
    for name, *arguments in taken:
        await _step(world, name, *arguments)
        for reader in world.readers:
            reader.check()
    await world.heal()
    world.end()
    await world.heal()
    world.begin()
    await world.heal()
    world.speak("At last.")
    await world.heal()
    for reader in world.readers:
        reader.check()
        assert len(reader.durable) == len(world.log.entries) - reader.cursor
        assert reader.texts[world.output_id] == "At last."
    await world.close()


async def _step(world: World, name: str, *arguments: Any) -> None:
    match name:
        case "speak" | "think" | "go_on" | "beat" | "move" | "follow":
            getattr(world, name)(*arguments)
        case "deliver" | "lose":
            getattr(world.post, name)(*arguments)
        case "wake":
            await world.wake(*arguments)
        case "next_turn":
            world.end()
            world.begin()
        case "run":
            for _ in range(5):
                await asyncio.sleep(0)
        case "leave" if len(world.readers) > 1:
            await world.readers.pop().leave()
        case "cut":
            world.post.waiting = deque(letter for letter in world.post.waiting if letter[1] != "b")
            world.post.heard["b"]("b", None)


def _mirror(world: World, where: str) -> Mirror:
    found = world.hubs[where]._exchange
    assert found is not None
    return found._mirrors[SESSION]
