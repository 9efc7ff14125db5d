"""The checker of histories finds what cannot be, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from linearizable import Append, Entry, Head, History, Read, Sighting, problems

LOG = [Entry("e1", "a"), Entry("e2", record=True), Entry("e3", "b"), Entry("e4", record=True)]


def history() -> History:
    """Two inputs, one after the other, seen by everybody as soon as that can be."""
    return History(
        appends=[Append("a", 0, 2), Append("b", 5, 7)],
        reads=[Read(0, 1, []), Read(1, 3, ["e1"]), Read(8, 9, ["e1", "e2", "e3", "e4"])],
        heads=[Head(0, 1, None), Head(3, 4, "e1"), Head(9, 10, "e3")],
        follows=[[Sighting(1.5, "e1"), Sighting(3, "e2"), Sighting(6, "e3")], []],
    )


def test_what_can_be_is_no_problem() -> None:
    assert problems(history(), LOG) == []


def test_calls_at_the_same_time_may_be_ordered_either_way() -> None:
    found = History(
        appends=[Append("a", 0, 10), Append("b", 0, 10)],
        reads=[Read(1, 9, []), Read(1, 9, ["e1", "e2", "e3"]), Read(1, 9, ["e1"])],
        heads=[Head(1, 9, None), Head(1, 9, "e3"), Head(1, 9, "e1")],
    )
    assert problems(found, LOG) == []


def test_an_input_without_an_answer_may_be_there_late_or_never() -> None:
    found = replace(history(), appends=[Append("a", 0, 2), Append("b", 5), Append("c", 5)])
    assert problems(found, LOG) == []


def test_records_may_be_there_before_or_after_a_session_was_asked() -> None:
    found = History(appends=[Append("a", 0, 1), Append("b", 8)], heads=[Head(2, 3, "e1"), Head(6, 7, "e1")])
    found.reads = [Read(4, 5, ["e1", "e2"])]
    assert problems(found, LOG) == []


def stale_read_of_an_append(found: History) -> None:
    found.reads.append(Read(2.1, 2.2, []))


def stale_read_after_a_read(found: History) -> None:
    found.appends[1] = replace(found.appends[1], returned=None)
    found.follows, found.heads = [], []
    found.reads.append(Read(9.1, 9.2, ["e1"]))


def stale_read_after_a_sighting(found: History) -> None:
    found.reads.append(Read(6.1, 6.2, ["e1"]))


def stale_head(found: History) -> None:
    found.heads.append(Head(7.1, 7.2, "e1"))


def stale_head_before_anything(found: History) -> None:
    found.heads.append(Head(2.1, 2.2, None))


def stale_read_after_a_head(found: History) -> None:
    found.appends[1] = replace(found.appends[1], returned=None)
    found.follows = []
    found.heads.append(Head(5.1, 5.2, "e3"))
    found.reads.append(Read(5.3, 5.4, ["e1"]))


def read_of_what_was_not_sent_yet(found: History) -> None:
    found.reads.append(Read(4, 4.5, ["e1", "e2", "e3"]))


def sighting_of_what_was_not_sent_yet(found: History) -> None:
    found.follows.append([Sighting(2, "e1"), Sighting(3, "e2"), Sighting(4, "e3")])


def lost_append(found: History) -> None:
    found.appends.append(Append("c", 8, 9))


def unsent_input(found: History) -> None:
    del found.appends[1]


def reordered_appends(found: History) -> None:
    found.appends = [Append("a", 5, 7), Append("b", 0, 2)]
    found.reads, found.heads, found.follows = [], [], []


def reordered_read(found: History) -> None:
    found.reads.append(Read(8, 9, ["e1", "e3", "e2"]))


def forked_read(found: History) -> None:
    found.reads.append(Read(8, 9, ["e1", "e2", "f3"]))


def read_with_a_gap(found: History) -> None:
    found.reads.append(Read(8, 9, ["e1", "e3"]))


def follower_with_a_gap(found: History) -> None:
    found.follows.append([Sighting(7, "e1"), Sighting(8, "e3")])


def follower_with_a_repeat(found: History) -> None:
    found.follows.append([Sighting(7, "e1"), Sighting(8, "e1")])


def head_of_another_log(found: History) -> None:
    found.heads.append(Head(8, 9, "f3"))


WRONG = [
    stale_read_of_an_append,
    stale_read_after_a_read,
    stale_read_after_a_sighting,
    stale_head,
    stale_head_before_anything,
    stale_read_after_a_head,
    read_of_what_was_not_sent_yet,
    sighting_of_what_was_not_sent_yet,
    lost_append,
    unsent_input,
    reordered_appends,
    reordered_read,
    forked_read,
    read_with_a_gap,
    follower_with_a_gap,
    follower_with_a_repeat,
    head_of_another_log,
]


@pytest.mark.parametrize("spoil", WRONG, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_is_found(spoil: Callable[[History], None]) -> None:
    found = history()
    spoil(found)
    assert problems(found, LOG)


@pytest.mark.parametrize(
    "log", [[*LOG, Entry("e5", "a")], [*LOG, Entry("e1", record=True)], LOG[:2]], ids=["doubled", "repeated", "cut"]
)
def test_a_log_that_cannot_be_is_found(log: list[Entry]) -> None:
    assert problems(history(), log)
