"""What the disk itself can do: an fsync of a small append, and one SQLite commit of one row. Medians."""

import os
import sqlite3
import statistics
import time
from pathlib import Path

from msgspec import Struct


class Disk(Struct):
    """Milliseconds of an fsync after a 4 KiB append, and durable one-row commits a second, one after another."""

    fsync_ms: float
    commits_per_second: float


def measure(folder: Path, times: int = 300) -> Disk:
    """Measure in `folder`, which should be on the disk where the stores of the benchmark are."""
    return Disk(_fsync(folder / "fsync.bin", times) * 1e3, 1 / _commit(folder / "commits.db", times))


def _fsync(path: Path, times: int) -> float:
    block = b"x" * 4096
    spent = []
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    try:
        for _ in range(times):
            start = time.perf_counter()
            os.write(file, block)
            os.fsync(file)
            spent.append(time.perf_counter() - start)
    finally:
        os.close(file)
    return statistics.median(spent)


def _commit(path: Path, times: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    spent = []
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, body TEXT)")
        for _ in range(times):
            start = time.perf_counter()
            connection.execute("INSERT INTO rows (body) VALUES ('twenty characters or so')")
            spent.append(time.perf_counter() - start)
    finally:
        connection.close()
    return statistics.median(spent)
