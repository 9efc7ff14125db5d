"""Who owns a database file: one process, which holds its lock. A lock that is free proves the last owner dead."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sessile.config import DatabaseInUse


@contextlib.contextmanager
def owned(database: Path) -> Iterator[None]:
    """Own a database file, through the file `….lock` beside it. Raises DatabaseInUse when another process does.

    The lock is a file of its own because SQLite drops its locks when the process closes the database file elsewhere.
    """
    database = database.resolve()
    with database.with_name(f"{database.name}.lock").open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise DatabaseInUse(_refusal(database, lock.read(20).strip())) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _refusal(database: Path, owner: str) -> str:
    who = f"the process {owner}" if owner.isdigit() else "another process"
    return (
        f"The database {database} is in use by {who}: a Sessile server, or a program that opened it. "
        "Talk to that server, or end it first."
    )
