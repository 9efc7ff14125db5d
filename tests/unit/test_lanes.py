"""Lanes: what a batch promises to each of its verbs."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sessile.stores.sqlite.lanes import MAX_BATCH, ReadLane, WriteLane
from sessile.testing.store_contract_upkeep import Commits
from sessile.wire.errors import NotFound, StorageUnavailable

Verb = Callable[[sqlite3.Connection], Any]


class Database(sqlite3.Connection):
    """A connection that writes down what it executes, and whose commits can be held up or made to fail."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, isolation_level=None, check_same_thread=False)
        self.executed: list[str] = []
        self.failing = False
        self.committing = threading.Event()
        self.may_commit = threading.Event()
        self.may_commit.set()
        super().execute("PRAGMA journal_mode = WAL")

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        self.executed.append(sql)
        if sql == "COMMIT":
            self.committing.set()
            assert self.may_commit.wait(30)
            if self.failing:
                raise sqlite3.OperationalError("disk I/O error")
        return super().execute(sql, *values)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(tmp_path / "lane.db")
    database.execute("CREATE TABLE words (word TEXT PRIMARY KEY)")
    database.executed.clear()
    return database


@pytest.fixture
async def writer(database: Database) -> AsyncIterator[WriteLane]:
    lane = WriteLane(database)
    yield lane
    database.may_commit.set()
    await lane.close()


@pytest.fixture
async def reader(database: Database, tmp_path: Path) -> AsyncIterator[ReadLane]:
    lane = ReadLane([Database(tmp_path / "lane.db")])
    yield lane
    await lane.close()


def write(word: str) -> Verb:
    def verb(db: sqlite3.Connection) -> str:
        db.execute("INSERT INTO words VALUES (?)", (word,))
        return word

    return verb


def fail(error: BaseException, word: str = "half") -> Verb:
    """A verb that writes, then raises."""

    def verb(db: sqlite3.Connection) -> None:
        write(word)(db)
        raise error

    return verb


def words(db: sqlite3.Connection) -> list[str]:
    return [word for (word,) in db.execute("SELECT word FROM words ORDER BY rowid")]


async def together(lane: WriteLane, database: Database, *verbs: Verb) -> list[Any]:
    """The outcomes of one batch."""
    database.may_commit.clear()
    first = lane.run(lambda db: None)
    assert await asyncio.to_thread(database.committing.wait, 30)
    futures = [lane.run(verb) for verb in verbs]
    database.executed.clear()
    database.may_commit.set()
    await first
    return await asyncio.gather(*futures, return_exceptions=True)


async def test_nothing_is_answered_before_the_commit_returns(writer: WriteLane, database: Database) -> None:
    database.may_commit.clear()
    futures = [writer.run(write(word)) for word in "abc"]
    assert await asyncio.to_thread(database.committing.wait, 30)
    await asyncio.sleep(0.02)
    assert not any(future.done() for future in futures)
    database.may_commit.set()
    assert await asyncio.gather(*futures) == ["a", "b", "c"]


async def test_what_waits_together_is_one_transaction_in_order(writer: WriteLane, database: Database) -> None:
    given = [f"word {number}" for number in range(MAX_BATCH)]
    assert await together(writer, database, *map(write, given)) == given
    assert database.executed.count("COMMIT") == 1
    assert await writer.run(words) == given


async def test_a_batch_is_bounded(writer: WriteLane, database: Database) -> None:
    await together(writer, database, *(write(f"word {number}") for number in range(2 * MAX_BATCH + 1)))
    assert database.executed.count("COMMIT") == 3


@pytest.mark.parametrize("error", [NotFound("no"), KeyError("a defect"), SystemExit(3), sqlite3.OperationalError("x")])
async def test_a_verb_that_raises_has_no_effect_and_harms_no_other(
    writer: WriteLane, database: Database, error: BaseException
) -> None:
    first, failed, last = await together(writer, database, write("first"), fail(error), write("last"))
    assert (first, last) == ("first", "last")
    assert isinstance(failed, StorageUnavailable if isinstance(error, sqlite3.Error) else type(error))
    assert await writer.run(words) == ["first", "last"]


async def test_a_verb_that_ends_the_transaction_fails_the_batch(writer: WriteLane, database: Database) -> None:
    def ending(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    outcomes = await together(writer, database, write("first"), ending, write("last"))
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
    assert await writer.run(words) == []


async def test_a_commit_that_fails_fails_the_batch_and_the_next_one_works(
    writer: WriteLane, database: Database
) -> None:
    database.failing = True
    outcomes = await asyncio.gather(*(writer.run(write(word)) for word in "abc"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 3
    database.failing = False
    assert await writer.run(words) == []
    assert await writer.run(write("a")) == "a"


async def test_an_observer_is_told_of_commits_and_of_those_that_fail(writer: WriteLane, database: Database) -> None:
    writer.observer = commits = Commits()
    await asyncio.gather(*(writer.run(write(word)) for word in "abc"))
    assert (commits.verbs, len(commits.seconds), commits.failures) == (3, 1, 0)
    database.failing = True
    with pytest.raises(StorageUnavailable):
        await writer.run(write("d"))
    assert (commits.verbs, commits.failures) == (3, 1)


async def test_a_commit_that_failed_is_written_over_before_anybody_is_told(
    writer: WriteLane, database: Database
) -> None:
    """SQLite leaves the frames of a commit whose fsync failed in the WAL, where a recovery would find them."""
    database.failing = True
    with pytest.raises(StorageUnavailable):
        await writer.run(write("a"))
    assert database.executed[-3:] == ["COMMIT", "ROLLBACK", "PRAGMA user_version = 0"]


async def test_a_long_verb_leaves_the_event_loop_alone(writer: WriteLane, database: Database) -> None:
    running, go_on = threading.Event(), threading.Event()

    def long(db: sqlite3.Connection) -> str:
        running.set()
        assert go_on.wait(30), "the event loop waits for the verb"
        return str(write("long")(db))

    first = writer.run(long, long=True)
    assert await asyncio.to_thread(running.wait, 30)
    second = writer.run(write("short"))
    go_on.set()
    assert await asyncio.gather(first, second) == ["long", "short"]
    assert await writer.run(words) == ["long", "short"]


async def test_a_long_verb_that_fails_harms_no_other(writer: WriteLane, database: Database) -> None:
    async def outcomes(error: BaseException) -> list[Any]:
        verbs = [writer.run(fail(error), long=True), writer.run(write(type(error).__name__))]
        return await asyncio.gather(*verbs, return_exceptions=True)

    failed, other = await outcomes(NotFound("no"))
    assert (type(failed), other) == (NotFound, "NotFound")
    database.failing = True
    assert [type(outcome) for outcome in await outcomes(KeyError("a defect"))] == [StorageUnavailable] * 2
    database.failing = False
    assert await writer.run(words) == ["NotFound"]


async def test_a_long_verb_that_ends_the_transaction_fails_its_batch(writer: WriteLane, database: Database) -> None:
    def ending(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    verbs = [writer.run(write("first")), writer.run(ending, long=True)]
    outcomes = await asyncio.gather(*verbs, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 2
    assert await writer.run(write("next")) == "next"


async def test_a_cancelled_caller_harms_no_other(writer: WriteLane, database: Database) -> None:
    database.may_commit.clear()
    futures = [writer.run(write(word)) for word in "abc"]
    futures[1].cancel()
    database.may_commit.set()
    assert await futures[0] == "a"
    assert await futures[2] == "c"


async def test_closing_runs_what_was_queued_and_takes_no_more(database: Database, reader: ReadLane) -> None:
    lane = WriteLane(database)
    futures = [lane.run(write(word)) for word in "abc"]
    await lane.close()
    assert await asyncio.gather(*futures) == ["a", "b", "c"]
    with pytest.raises(StorageUnavailable):
        await lane.run(words)
    assert await reader.run(words) == ["a", "b", "c"]
    with pytest.raises(sqlite3.ProgrammingError):
        database.execute("SELECT 1")


async def test_a_read_sees_what_was_answered_before_it(writer: WriteLane, reader: ReadLane) -> None:
    for number in range(50):
        await writer.run(write(f"word {number}"))
        assert len(await reader.run(words)) == number + 1


async def test_reads_of_one_batch_see_one_snapshot(writer: WriteLane, reader: ReadLane) -> None:
    reading, go = threading.Event(), threading.Event()

    def slow(db: sqlite3.Connection) -> list[str]:
        before = words(db)
        reading.set()
        assert go.wait(30)
        return [*before, *words(db)]

    waiting = reader.run(slow)
    await asyncio.to_thread(reading.wait, 30)
    await writer.run(write("late"))
    go.set()
    assert await waiting == []
    assert await reader.run(words) == ["late"]


async def test_a_read_that_fails_leaves_the_lane_usable(reader: ReadLane) -> None:
    for _ in range(3):
        with pytest.raises(StorageUnavailable):
            await reader.run(lambda db: db.execute("SELECT * FROM nowhere"))
        with pytest.raises(KeyError):
            await reader.run(lambda db: {}["defect"])
    assert await reader.run(words) == []
