"""`python -m benchmarks`: print the budget table and write it to `BENCH.md` in the working folder.

The exit status is 0 also when a budget is missed, for the table says so; it is 1 when something could not be measured.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import busy, followers, front_door, lines, nodes, table
from benchmarks.lines import Size
from benchmarks.processes import NotMeasured
from benchmarks.product import Product
from benchmarks.table import Row

FULL = Size(rounds=5, seconds=1.5, many=100_000, starts=5, followers=5000)
QUICK = Size(rounds=2, seconds=0.5, many=10_000, starts=2, followers=300)

_HOW = """`make bench`, or `python -m benchmarks` in the root of the repository: three to five minutes, loopback only,
on temporary data. `--quick` is for CI: fewer rounds, 10,000 sessions and events instead of 100,000. `--rounds N` sets
the rounds. `--folder PATH` puts the data on another disk; it should be one that is not memory.
"""
_NOTES = """Limit: the bare prototype (`benchmarks/bare.py`) in the same run, or the short session, or the raw query.
Product and prototype run by turns, under the same uvicorn flags; rates are medians of the rounds, shares are medians of
the shares within a round. Turns go to 256 sessions, so histories stay short; what a long history costs is a line of
its own, whose model reads about twenty events. `generator` is the largest share of one core that the load generator
took.
Where the time of a missed budget goes: ARCHITECTURE.md, "Budgets".
"""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _attempt(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows of a measurement, or one row that says why there are none."""
    _say(name)
    try:
        return measure()
    except NotMeasured as failure:
        return [Row(name=name, failure=str(failure))]


def _on_fresh_server(size: Size, folder: Path) -> list[Row]:
    product = Product(folder / "fresh")
    server = product.start()
    try:
        product.create_agents(server.port)
        rows = lines.compared(size, folder, product, server, _say)
        return rows + _attempt("added latency per delta", lambda: [lines.delta(size, product, server)])
    finally:
        server.stop()


def _on_filled_server(size: Size, folder: Path) -> list[Row]:
    product = Product(folder / "filled")
    server = product.start()
    try:
        product.create_agents(server.port)
    finally:
        server.stop()
    found = lines.fill(size, product)
    server = product.start()
    try:
        return lines.flat(size, product, server, _say) + lines.pages(size, product, server, found)
    finally:
        server.stop()


def _followed(size: Size, folder: Path) -> list[Row]:
    product = Product(folder / "followed")
    server = product.start()
    try:
        product.create_agents(server.port)
        return [lines.idle_followers(size, product, server)]
    finally:
        server.stop()


def _busy(size: Size, folder: Path) -> list[Row]:
    product = Product(folder / "busy")
    server = product.start()
    try:
        scene = busy.Scene(size.followers // 25, size.followers // 5, rate=20, seconds=40 * size.seconds)
        return [busy.crowd(product, server, scene), *busy.beside_a_slow_reader(product, server, 5 * size.rounds)]
    finally:
        server.stop()


def _shipped(size: Size, folder: Path) -> list[Row]:
    return lines.start_and_idle(size, Product(folder / "shipped"), lambda: time.sleep(1))


def measure(size: Size, folder: Path) -> list[Row]:
    """Every row of the table."""
    followers.raise_file_limit()
    parts = (
        ("machine alone", lambda: lines.alone(size, folder)),
        ("throughput beside the bare prototype", lambda: _on_fresh_server(size, folder)),
        ("long logs and many sessions", lambda: _on_filled_server(size, folder)),
        ("idle followers", lambda: _followed(size, folder)),
        ("busy followers", lambda: _busy(size, folder)),
        ("start and idle memory", lambda: _shipped(size, folder)),
        ("appends on PostgreSQL", lambda: nodes.appends(size)),
        ("two nodes on PostgreSQL", lambda: nodes.on_nodes(size, folder)),
        ("import and help", lambda: front_door.measure(size.starts)),
    )
    return [row for name, part in parts for row in _attempt(name, part)]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="sizes for CI")
    parser.add_argument("--rounds", type=int, help="rounds of product and prototype")
    parser.add_argument("--folder", help="where temporary data goes; default: the system's temporary folder")
    given = parser.parse_args()
    size = QUICK if given.quick else FULL
    if given.rounds:
        size = Size(max(1, given.rounds), size.seconds, size.many, size.starts, size.followers)
    with tempfile.TemporaryDirectory(prefix="sessile-bench-", dir=given.folder) as folder:
        rows = measure(size, Path(folder))
    print(table.layout(rows))
    for row in rows:
        if row.failure:
            _say(f"{row.name}: {row.failure}")
    table.write(Path("BENCH.md"), rows, _HOW, _NOTES)
    return 1 if any(row.failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
