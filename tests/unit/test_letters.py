"""Messages between nodes as payloads: put together again as they were, and no others, whatever was lost."""

from hypothesis import given
from hypothesis import strategies as st

from sessile.stores.postgres.letters import MAX_WAITING_BYTES, PAYLOAD_BYTES, Inbox, Outbox

text = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=50)
messages = st.builds(lambda piece, times: (piece * times).encode(), text, st.sampled_from([1, 1, 1, 300, 1000]))


def opened(inbox: Inbox, notes: list[tuple[str, str]]) -> list[bytes]:
    """The messages in some payloads."""
    return [message for channel, payload in notes for message in inbox.open(channel, payload)[1]]


@given(st.lists(st.lists(messages, max_size=5), max_size=5))
def test_what_arrives_is_what_was_sent(batches: list[list[bytes]]) -> None:
    outbox, inbox = Outbox("node"), Inbox()
    for batch in batches:
        for message in batch:
            assert outbox.put("there", message)
        notes = outbox.take()
        assert all(len(payload.encode()) <= PAYLOAD_BYTES for _, payload in notes)
        assert opened(inbox, notes) == batch
        assert not outbox


@given(st.lists(messages.filter(bool), max_size=20), st.data())
def test_a_lost_payload_loses_whole_messages(sent: list[bytes], data: st.DataObject) -> None:
    outbox, inbox = Outbox("node"), Inbox()
    notes = []
    for number, message in enumerate(sent):
        outbox.put("there", b"%d:%b" % (number, message))
        if data.draw(st.booleans()):
            notes += outbox.take()
    notes += outbox.take()
    kept = [note for note in notes if data.draw(st.booleans())]
    got = opened(inbox, kept)
    numbers = [int(message.partition(b":")[0]) for message in got]
    assert numbers == sorted(set(numbers))
    assert all(message == b"%d:%b" % (number, sent[number]) for number, message in zip(numbers, got, strict=True))
    if kept == notes:
        assert len(got) == len(sent)


def test_small_messages_share_a_payload() -> None:
    outbox = Outbox("node")
    for _ in range(20):
        outbox.put("there", b"x" * 200)
    assert len(outbox.take()) == 1


def test_what_waits_is_bounded() -> None:
    outbox, inbox = Outbox("node"), Inbox()
    message = b"x" * 1000
    put = sum(outbox.put("there", message) for _ in range(2 * MAX_WAITING_BYTES // len(message)))
    assert 0.9 * MAX_WAITING_BYTES < put * len(message) <= MAX_WAITING_BYTES + len(message)
    assert outbox.put("elsewhere", message)
    assert opened(inbox, outbox.take()) == [message] * (put + 1)
    assert outbox.put("there", message)


def test_a_message_of_any_size_has_room_where_little_waits() -> None:
    """Such as the text so far of a long output: a follower who joins has nothing to see without it."""
    outbox, inbox = Outbox("node"), Inbox()
    long = "é".encode() * MAX_WAITING_BYTES
    assert outbox.put("there", b"before")
    assert outbox.put("there", long)
    assert not outbox.put("there", b"behind")
    assert opened(inbox, outbox.take()) == [b"before", long]


def test_channels_and_senders_are_told_apart() -> None:
    inbox, a, b = Inbox(), Outbox("a"), Outbox("b")
    a.put("one", b"1" * PAYLOAD_BYTES)
    a.put("all", b"2")
    b.put("one", b"3")
    (first, *rest), others = a.take(), b.take()
    assert opened(inbox, [first]) == []
    assert opened(inbox, others) == [b"3"]
    assert opened(inbox, rest) == [b"1" * PAYLOAD_BYTES, b"2"]
