"""The channel of a session, and the hub that keeps channels while somebody needs them."""

import asyncio
import gc

import pytest

from sessile.domain.log import Entry
from sessile.live.channel import MAX_LAG_BYTES, Channel, Node
from sessile.live.hub import Hub
from sessile.wire.events import StreamingAgentOutput, StreamingAgentOutputEnd, StreamingThinking

PIECE = "x" * 2_000


def entry(sequence: int, type: str = "thinking") -> Entry:
    return Entry(f"aev_{sequence:04}", "chat", sequence, "trn_1", type, 0, False, b'{"type":"%b"}' % type.encode())


def delta(text: str = "word ", offset: int = 0, output_id: str = "out_1") -> StreamingAgentOutput:
    return StreamingAgentOutput(content=text, output_id=output_id, offset=offset, turn_id="trn_1", created_at="")


def end(output_id: str = "out_1") -> StreamingAgentOutputEnd:
    return StreamingAgentOutputEnd(output_id=output_id, turn_id="trn_1", created_at="")


def chain(node: Node | None) -> list[Node]:
    """What comes after a node."""
    found = []
    while node is not None and node.next is not None:
        node = node.next
        found.append(node)
    return found


def nodes_in_memory() -> int:
    gc.collect()
    return sum(isinstance(found, Node) for found in gc.get_objects())


def test_a_follower_sees_what_comes_after_it_attached_in_order() -> None:
    channel = Channel()
    channel.announce([entry(1)])
    place = channel.attach()
    thinking = StreamingThinking(content="hm", output_id="out_1", offset=0, turn_id="trn_1", created_at="")
    channel.publish(thinking)
    channel.announce([entry(2), entry(3)])
    first, *others = chain(place.node)
    assert (first.frame, first.entry) == (thinking, None)
    assert [node.entry for node in others] == [entry(2), entry(3)]


def test_a_node_is_encoded_once_for_all_followers() -> None:
    channel = Channel()
    one, two = channel.attach(), channel.attach()
    channel.announce([entry(1)])
    channel.publish(delta("hi"))
    durable, live = chain(one.node)
    assert chain(two.node) == [durable, live]
    assert durable.sse == b"event: thinking\ndata: " + entry(1).json + b"\n\n"
    assert live.sse.startswith(b'event: streaming_agent_output\ndata: {"type":"streaming_agent_output","content":"hi"')
    assert (durable.sse is durable.sse, live.sse is live.sse) == (True, True)


def test_the_snapshot_is_all_text_of_the_output_in_flight() -> None:
    channel = Channel()
    assert channel.snapshot() is None
    channel.publish(delta("Hello "))
    channel.publish(delta("you", 6))
    snapshot = channel.snapshot()
    assert snapshot is not None
    assert (snapshot.content, snapshot.offset, snapshot.output_id, snapshot.snapshot) == ("Hello you", 0, "out_1", True)
    channel.publish(delta("New", output_id="out_2"))
    snapshot = channel.snapshot()
    assert snapshot is not None
    assert (snapshot.content, snapshot.output_id) == ("New", "out_2")


@pytest.mark.parametrize("ending", ["agent_output", "turn_ended"])
def test_a_durable_end_leaves_nothing_in_flight(ending: str) -> None:
    channel = Channel()
    channel.publish(delta())
    channel.announce([entry(1, "input_message")])
    assert channel.snapshot() is not None
    channel.announce([entry(2, ending)])
    assert channel.snapshot() is None


def test_a_discarded_output_leaves_nothing_in_flight() -> None:
    channel = Channel()
    channel.publish(delta())
    channel.publish(end())
    assert channel.snapshot() is None


def test_head_and_running_follow_the_announcements() -> None:
    channel = Channel()
    assert (channel.head, channel.running) == (None, False)
    channel.announce([entry(1, "input_message"), entry(2, "turn_started")])
    assert (channel.head, channel.running) == (2, True)
    channel.announce([entry(3, "turn_ended")])
    assert (channel.head, channel.running) == (3, False)


async def test_every_link_and_the_close_wake_all_who_wait() -> None:
    channel = Channel()
    for wake in (
        lambda: channel.announce([entry(1)]),
        lambda: channel.publish(delta()),
        channel.wake,
        lambda: channel.close("deleted"),
    ):
        waiting = [channel.wait() for _ in range(3)]
        waiting[1].cancel()
        assert not waiting[0].done()
        wake()
        await asyncio.wait_for(asyncio.gather(waiting[0], waiting[2]), 5)
    assert channel.closed == "deleted"


def test_a_follower_that_is_too_slow_loses_its_place_and_others_do_not() -> None:
    channel = Channel()
    slow, fast = channel.attach(), channel.attach()
    for number in range(3 * MAX_LAG_BYTES // len(PIECE)):
        channel.publish(delta(PIECE, number * len(PIECE)))
        fast.node = channel.tail
    assert slow.node is None
    assert fast.node is channel.tail


def test_the_chain_behind_the_slowest_follower_is_bounded() -> None:
    before = nodes_in_memory()
    channel = Channel()
    slow = channel.attach()
    for number in range(20 * MAX_LAG_BYTES // len(PIECE)):
        channel.announce([entry(number)])
        channel.publish(delta(PIECE))
        channel.publish(end())
    assert slow.node is None
    assert nodes_in_memory() - before <= 3 * MAX_LAG_BYTES // len(PIECE) + 10


def test_a_long_chain_is_freed_without_recursion() -> None:
    before = nodes_in_memory()
    channel = Channel()
    first: Node | None = channel.tail
    for _ in range(100_000):
        channel.publish(end())
    assert nodes_in_memory() - before > 100_000
    assert first is not None
    first = None
    assert nodes_in_memory() - before == 1


def hub() -> Hub:
    return Hub(None, 60)  # type: ignore[arg-type]


def channels(hub: Hub) -> int:
    return len(hub._channels)


async def test_a_channel_lives_while_a_turn_runs_or_somebody_follows() -> None:
    live = hub()
    live.announce(1, [entry(1, "input_message"), entry(2, "turn_started")])
    live.announce(2, [entry(1, "input_message"), entry(2, "turn_started")])
    tail = live.follow(1, 0)
    assert channels(live) == 2
    live.announce(1, [entry(3, "turn_ended")])
    live.announce(2, [entry(3, "turn_ended")])
    assert channels(live) == 1
    tail.close()
    assert channels(live) == 0


async def test_a_follower_that_leaves_does_not_end_the_channel_of_a_running_turn() -> None:
    live = hub()
    live.announce(1, [entry(1, "input_message")])
    tails = [live.follow(1, 1), live.follow(1, 1)]
    for tail in tails:
        tail.close()
    assert channels(live) == 1
    live.announce(1, [entry(2, "turn_ended")])
    assert channels(live) == 0


async def test_following_an_idle_session_and_leaving_leaves_nothing() -> None:
    live = hub()
    tails = [live.follow(session, 0) for session in range(50) for _ in range(2)]
    assert channels(live) == 50
    for tail in tails:
        tail.close()
        tail.close()
    assert channels(live) == 0


async def test_a_deleted_session_ends_its_followers_and_no_other() -> None:
    live = hub()
    deleted, other = live.follow(1, 0), live.follow(2, 0)
    live.close_session(1)
    live.close_session(3)
    assert (deleted.closed, other.closed) == ("deleted", None)
    deleted.close()
    assert channels(live) == 1
    other.close()
