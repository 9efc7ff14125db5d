"""Following a session: no gap and no repeat, whatever comes between the log and the channel."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessile.domain.log import Entry
from sessile.live.channel import MAX_LAG_BYTES, Node
from sessile.live.hub import Hub
from sessile.live.tail import Tail
from sessile.rows import EventQuery, Page
from sessile.wire.errors import StorageUnavailable
from sessile.wire.events import StreamingAgentOutput

SESSION = 1
NEVER = 3600.0
SOON = 0.005
WAIT_SECONDS = 10.0


class FakeLog:
    """A Store that has one log, whose reads can be slow, held up or refused."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.reads = 0
        self.failing = False
        self.gone = False
        self.pauses = 0
        """How often a read lets others run, before and after it looks."""
        self.looked = asyncio.Event()
        self.may_return = asyncio.Event()
        self.may_return.set()

    def commit(self, *types: str) -> list[Entry]:
        new = [
            Entry(f"aev_{n:04}", "chat", n, "trn_1", type, 0, False, b'{"type":"%b"}' % type.encode())
            for n, type in enumerate(types, len(self.entries) + 1)
        ]
        self.entries += new
        return new

    async def heads(self, session_ids: list[int]) -> dict[int, int]:
        if self.failing:
            raise StorageUnavailable
        return {session_id: len(self.entries) for session_id in session_ids if not self.gone}

    async def read_log(self, session_id: int, query: EventQuery) -> Page[Entry]:
        assert (session_id, query.order, query.records, query.include_hidden) == (SESSION, "asc", True, True)
        self.reads += 1
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        found = [entry for entry in self.entries if entry.sequence > (query.cursor or 0)]
        self.looked.set()
        await self.may_return.wait()
        for _ in range(self.pauses):
            await asyncio.sleep(0)
        if self.failing:
            raise StorageUnavailable
        page = found[: query.limit]
        return Page(page, page[-1].sequence if len(found) > len(page) else None)


class World:
    """A hub over a fake log."""

    def __init__(self, heartbeat: float = NEVER) -> None:
        self.log = FakeLog()
        self.hub = Hub(self.log, heartbeat)  # type: ignore[arg-type]

    def write(self, *types: str) -> None:
        """Commit and announce."""
        self.hub.announce(SESSION, self.log.commit(*types))

    def speak(self, text: str, offset: int = 0, output_id: str = "out_1") -> None:
        """Publish a delta."""
        delta = StreamingAgentOutput(content=text, output_id=output_id, offset=offset, turn_id="trn_1", created_at="")
        self.hub.publish(SESSION, delta)

    def follow(self, cursor: int = 0, *, joins: bool = False, deltas: bool = True) -> Tail:
        """A follower."""
        return self.hub.follow(SESSION, cursor, joins=joins, deltas=deltas)


@pytest.fixture
async def world() -> World:
    return World()


async def soon(tail: Tail) -> list[Node]:
    """The next nodes, which must not have to wait for a heartbeat."""
    return await asyncio.wait_for(tail.next(), WAIT_SECONDS)


async def drained(tail: Tail, last: int) -> list[Node]:
    """All nodes up to the event with this sequence."""
    nodes: list[Node] = []
    async with asyncio.timeout(WAIT_SECONDS):
        while last not in durable(nodes):
            nodes += await tail.next()
    return nodes


def durable(nodes: Sequence[Node]) -> list[int]:
    """The sequences among the nodes."""
    return [node.entry.sequence for node in nodes if node.entry is not None]


def told(nodes: Sequence[Node]) -> list[Any]:
    """Sequences, and deltas as text; a snapshot has a bar before it."""
    found: list[Any] = []
    for node in nodes:
        if node.entry is not None:
            found.append(node.entry.sequence)
        elif isinstance(node.frame, StreamingAgentOutput):
            found.append(("|" if node.frame.snapshot else "") + node.frame.content)
    return found


async def test_the_seam_has_no_gap_and_no_repeat_wherever_a_follower_attaches() -> None:
    total = 5
    for committed, announced, cursor in itertools.product(range(total + 1), repeat=3):
        if max(announced, cursor) > committed:
            continue
        world = World()
        entries = world.log.commit(*["thinking"] * committed)
        world.hub.announce(SESSION, entries[:announced])
        tail = world.follow(cursor)
        world.hub.announce(SESSION, entries[announced:])
        world.write(*["thinking"] * (total + 1 - committed))
        seen = durable(await drained(tail, total + 1))
        assert seen == list(range(cursor + 1, total + 2)), (committed, announced, cursor)
        tail.close()


class Follower:
    """Reads a tail in a task of its own; its calls of `next` can be cancelled."""

    def __init__(self, tail: Tail) -> None:
        self.seen: list[int] = []
        self._tail = tail
        self._call: asyncio.Task[list[Node]] | None = None
        self._stopped = False
        self._task = asyncio.create_task(self._follow())

    def give_up(self) -> None:
        """Cancel the call under way; another one follows."""
        if self._call is not None:
            self._call.cancel()

    async def saw(self, last: int) -> None:
        """Wait until this sequence came."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not self.seen or self.seen[-1] < last:  # noqa: ASYNC110
                await asyncio.sleep(SOON)

    async def stop(self) -> None:
        self._stopped = True
        self.give_up()
        await self._task
        self._tail.close()

    async def _follow(self) -> None:
        while not self._stopped:
            self._call = asyncio.create_task(self._tail.next())
            await asyncio.wait([self._call])
            if not self._call.cancelled():
                self.seen += durable(self._call.result())


OPERATIONS = ("commit", "commit two", "announce", "announce", "lose", "swap", "delta", "run", "run", "give up", "break")


async def live_through(operations: list[str], attach_at: int, cursor: int, pauses: int) -> None:
    """A follower attaches somewhere in the middle of it all and sees every event after its cursor once, in order."""
    world = World(SOON)
    world.log.pauses = pauses
    follower: Follower | None = None
    unannounced: list[Entry] = []
    world.log.commit(*["thinking"] * cursor)
    for place, operation in enumerate([*operations, "end"]):
        if place == min(attach_at, len(operations)):
            follower = Follower(world.follow(cursor))
        match operation:
            case "commit" | "commit two":
                unannounced += world.log.commit(*["thinking"] * (1 + (operation == "commit two")))
            case "announce" if unannounced:
                world.hub.announce(SESSION, [unannounced.pop(0)])
            case "lose" if unannounced:
                unannounced.pop(0)
            case "swap":
                unannounced.reverse()
            case "delta":
                world.speak("word ")
            case "run":
                await asyncio.sleep(0)
            case "give up" if follower is not None:
                follower.give_up()
            case "break":
                world.log.failing = not world.log.failing
    world.log.failing = False
    world.log.commit("turn_ended")
    assert follower is not None
    await follower.saw(len(world.log.entries))
    assert follower.seen == list(range(cursor + 1, len(world.log.entries) + 1))
    await follower.stop()


@settings(deadline=None)
@given(st.lists(st.sampled_from(OPERATIONS), max_size=40), st.integers(0, 40), st.integers(0, 3), st.integers(0, 3))
def test_no_interleaving_loses_or_repeats_an_event(
    operations: list[str], attach_at: int, cursor: int, pauses: int
) -> None:
    asyncio.run(live_through(operations, attach_at, cursor, pauses))


async def test_a_lost_announcement_is_repaired_at_the_heartbeat() -> None:
    world = World(SOON)
    tail = world.follow()
    world.write("input_message")
    assert durable(await soon(tail)) == [1]
    world.log.commit("thinking", "turn_ended")
    assert durable(await drained(tail, 3)) == [2, 3]
    tail.close()


async def test_a_session_that_is_gone_without_a_word_ends_its_followers_at_the_heartbeat() -> None:
    world = World(SOON)
    world.write("input_message")
    tail = world.follow(1)
    world.log.gone = True
    async with asyncio.timeout(WAIT_SECONDS):
        while tail.closed is None:
            await tail.next()
    assert tail.closed == "deleted"
    tail.close()


async def test_heartbeats_of_many_followers_at_the_head_read_no_log() -> None:
    world = World(SOON)
    world.write("input_message")
    tails = [world.follow(1) for _ in range(20)]
    for _ in range(3):
        assert [await soon(tail) for tail in tails] == [[]] * 20
    assert world.log.reads == 0
    for tail in tails:
        tail.close()


async def test_a_gap_sends_the_follower_to_the_log(world: World) -> None:
    tail = world.follow()
    world.write("input_message")
    assert durable(await soon(tail)) == [1]
    world.log.commit(*["thinking"] * 150)
    world.write("turn_ended")
    assert durable(await drained(tail, 152)) == list(range(2, 153))


async def test_announcements_out_of_order_are_put_in_order(world: World) -> None:
    world.write("input_message")
    tail = world.follow(1)
    first, second = world.log.commit("thinking"), world.log.commit("agent_output")
    world.hub.announce(SESSION, second)
    world.hub.announce(SESSION, first)
    world.write("turn_ended")
    assert durable(await soon(tail)) == [2, 3, 4]


async def test_a_follower_at_the_head_reads_no_log(world: World) -> None:
    world.write("input_message", "turn_started")
    tail = world.follow(2)
    world.speak("Hello")
    world.write("agent_output", "turn_ended")
    assert told(await soon(tail)) == ["Hello", 3, 4]
    assert world.log.reads == 0


async def test_a_follower_far_behind_reads_page_by_page(world: World) -> None:
    world.log.commit(*["thinking"] * 250)
    tail = world.follow(3)
    assert [durable(await soon(tail)) for _ in range(3)] == [[*range(4, 104)], [*range(104, 204)], [*range(204, 251)]]
    assert world.log.reads == 3


async def test_what_comes_while_the_log_is_read_needs_no_heartbeat(world: World) -> None:
    world.log.may_return.clear()
    tail = world.follow()
    reading = asyncio.create_task(soon(tail))
    await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
    world.write("input_message")
    world.speak("Hello")
    world.log.may_return.set()
    assert told(await reading) == [1, "Hello"]


async def test_a_delta_that_the_log_has_overtaken_is_not_shown_after_its_output(world: World) -> None:
    world.write("input_message")
    tail = world.follow()
    world.speak("Hello")
    world.write("agent_output")
    world.speak("Next", output_id="out_2")
    assert told(await soon(tail)) == [1, 2, "|Next"]


async def test_giving_up_in_the_middle_of_a_read_loses_nothing(world: World) -> None:
    world.log.commit(*["thinking"] * 250)
    tail = world.follow()
    for _ in range(3):
        world.log.looked.clear()
        world.log.may_return.clear()
        reading = asyncio.create_task(tail.next())
        await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    world.log.may_return.set()
    assert durable(await drained(tail, 250)) == list(range(1, 251))


async def test_a_log_that_cannot_be_read_is_tried_again_at_the_heartbeat() -> None:
    world = World(SOON)
    world.log.commit("input_message")
    world.log.failing = True
    tail = world.follow()
    assert await soon(tail) == []
    assert await soon(tail) == []
    reads = world.log.reads
    assert reads < 10
    world.write("turn_ended")
    world.log.failing = False
    assert durable(await drained(tail, 2)) == [1, 2]
    tail.close()


async def test_a_quiet_session_beats() -> None:
    world = World(SOON)
    world.write("input_message")
    tail = world.follow(1)
    assert [await soon(tail) for _ in range(3)] == [[], [], []]
    tail.close()


def flood(world: World, pieces: int = 3) -> str:
    """More text than a follower may be behind, with a durable event in it."""
    piece = "x" * (MAX_LAG_BYTES // 2)
    for number in range(pieces):
        world.speak(piece, number * len(piece))
    return piece * pieces


async def test_a_slow_follower_gets_durable_events_and_a_snapshot(world: World) -> None:
    world.write("input_message", "turn_started")
    tail = world.follow(2)
    world.write("thinking")
    text = flood(world)
    assert told(await soon(tail)) == [3, "|" + text]
    world.speak("more", len(text))
    assert told(await soon(tail)) == ["more"]
    world.write("agent_output", "turn_ended")
    assert told(await soon(tail)) == [4, 5]


async def test_a_slow_follower_gets_no_snapshot_of_what_is_durable(world: World) -> None:
    world.write("input_message", "turn_started")
    tail = world.follow(2)
    flood(world)
    world.write("agent_output", "turn_ended")
    assert told(await soon(tail)) == [3, 4]


async def test_deltas_after_a_snapshot_join_it_even_when_they_come_during_the_read(world: World) -> None:
    world.write("input_message", "turn_started")
    tail = world.follow(2)
    text = flood(world)
    world.log.may_return.clear()
    reading = asyncio.create_task(soon(tail))
    await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
    world.speak("more", len(text))
    world.write("agent_output")
    world.log.may_return.set()
    assert told(await reading) == ["|" + text, "more", 3]


async def test_a_snapshot_is_dropped_when_the_read_already_has_its_output(world: World) -> None:
    world.write("input_message", "turn_started")
    tail = world.follow(2)
    text = flood(world)
    committed = world.log.commit("agent_output")
    world.log.may_return.clear()
    reading = asyncio.create_task(soon(tail))
    await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
    world.speak("more", len(text))
    world.hub.announce(SESSION, committed)
    world.log.may_return.set()
    assert told(await reading) == [3]


async def test_a_follower_that_gives_up_while_it_skips_gets_its_snapshot_later(world: World) -> None:
    world.write("input_message")
    tail = world.follow(1)
    text = flood(world)
    world.log.may_return.clear()
    reading = asyncio.create_task(tail.next())
    await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    world.log.may_return.set()
    assert told(await soon(tail)) == ["|" + text]


async def test_a_follower_that_is_too_slow_even_for_the_skip_skips_again(world: World) -> None:
    world.write("input_message")
    tail = world.follow(1)
    flood(world)
    world.log.may_return.clear()
    reading = asyncio.create_task(soon(tail))
    await asyncio.wait_for(world.log.looked.wait(), WAIT_SECONDS)
    text = flood(world, 6)
    world.log.may_return.set()
    (snapshot,) = told(await reading)
    assert snapshot.endswith(text)


async def test_who_joins_in_the_middle_of_an_output_gets_the_text_so_far_after_the_log(world: World) -> None:
    world.write("input_message", "turn_started")
    world.speak("Hello ")
    world.speak("you", 6)
    early, late, without = world.follow(joins=True), world.follow(2, joins=True), world.follow(deltas=False, joins=True)
    assert told(await soon(early)) == [1, 2, "|Hello you"]
    assert told(await soon(late)) == ["|Hello you"]
    assert told(await soon(without)) == [1, 2]
    world.speak(" two", 9)
    for tail in (early, late):
        assert told(await soon(tail)) == [" two"]


async def test_who_joins_gets_no_text_that_the_log_has_but_nobody_announced_yet(world: World) -> None:
    """Between a commit and its announcement the channel still has the output in flight."""
    world.write("input_message", "turn_started")
    world.speak("Hello")
    committed = world.log.commit("agent_output")
    for cursor, before in ((0, [1, 2, 3]), (2, [3]), (3, [])):
        tail = world.follow(cursor, joins=True)
        if before:
            assert told(await soon(tail)) == before
        waiting = asyncio.create_task(soon(tail))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reads = world.log.reads
        world.speak("!", 5)
        await asyncio.sleep(0)
        assert world.log.reads == reads, "deltas do not send it to the log again and again"
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        tail.close()
    tail = world.follow(3, joins=True)
    waiting = asyncio.create_task(soon(tail))
    await asyncio.sleep(0)
    world.hub.announce(SESSION, committed)
    world.speak("Next", output_id="out_2")
    assert told(await waiting) in (["|Next"], ["Next"])


async def test_a_long_replay_is_read_page_by_page_and_live_after_it(world: World) -> None:
    world.write(*["thinking"] * 250)
    world.speak("Hello")
    tail = world.follow(joins=True)
    pages = [told(await soon(tail)) for _ in range(3)]
    assert [len(page) for page in pages] == [100, 100, 51]
    assert pages[-1][-1] == "|Hello"
    world.write("agent_output")
    assert told(await soon(tail)) == [251]


async def test_the_end_of_an_agent_and_a_drain_end_followers(world: World) -> None:
    ours, theirs = world.hub.follow(1, 0, agent_id=7), world.hub.follow(2, 0, agent_id=8)
    world.hub.close_agent(7)
    assert (ours.closed, theirs.closed) == ("deleted", None)
    world.hub.drain()
    assert (ours.closed, theirs.closed) == ("deleted", "drain")
    world.log.commit("input_message")
    late = world.follow(joins=True)
    assert durable(await soon(late)) == [1]
    assert (await soon(late), late.closed) == ([], "drain")


async def test_a_slow_follower_costs_a_fast_one_nothing(world: World) -> None:
    world.write("input_message")
    slow, fast = world.follow(1), world.follow(1)
    seen: list[Any] = []
    for number in range(200):
        world.speak("x" * 20_000, number * 20_000)
        seen += told(await soon(fast))
    assert len(seen) == 200
    assert not any(text.startswith("|") for text in seen)
    assert len(told(await soon(slow))) == 1


async def test_the_end_of_a_session_ends_its_followers_after_what_they_have_not_seen(world: World) -> None:
    world.write("input_message")
    tail = world.follow(1)
    waiting = asyncio.create_task(soon(tail))
    await asyncio.sleep(0)
    world.hub.close_session(SESSION)
    assert await waiting == []
    assert tail.closed == "deleted"

    world.write("input_message")
    late = world.follow(2)
    world.write("turn_ended")
    world.hub.close_session(SESSION)
    assert durable(await soon(late)) == [3]
    assert await soon(late) == []


async def test_closing_twice_is_closing_once_and_stops_the_heartbeat() -> None:
    world = World(SOON)
    tail = world.follow()
    left = []
    tail.on_leave = lambda: left.append(True)
    tail.close()
    tail.close()
    assert left
    reads = world.log.reads
    await asyncio.sleep(10 * SOON)
    assert world.log.reads == reads
    assert tail._channel.places == set()


async def test_waits_that_time_out_leave_nothing_behind(world: World) -> None:
    tail = world.follow()
    for _ in range(50):
        await tail.gather(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await tail.next()
    channel = world.hub._channel(SESSION)
    assert not channel._waiters
    assert not channel._patient
    tail.close()
