"""PostgreSQL: appends beside bare batches, deltas shown by another node, turns on one node and on two.

`python -m benchmarks.nodes` prints these rows alone.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks import table
from benchmarks.busy import Scene, play
from benchmarks.lines import Size
from benchmarks.load import Spec
from benchmarks.postgres import Rates
from benchmarks.processes import ROOT, NotMeasured, Server, environment, load
from benchmarks.product import Product
from benchmarks.table import Row
from sessile.testing.postgres import PostgresUnavailable, postgres_server

MIN_APPEND_SHARE = 0.4
MAX_DELTA_MS = 10.0
_BUDGETED_CALLERS = 256
_CONNECTIONS = 16


def appends(size: Size) -> list[Row]:
    """The store's appends beside bare batches, in one run on a server of its own."""
    command = [sys.executable, "-m", "benchmarks.postgres", str(size.rounds), str(size.seconds)]
    done = subprocess.run(command, capture_output=True, env=environment(), cwd=ROOT, timeout=300, check=False)
    if done.returncode:
        raise NotMeasured(f"appends on PostgreSQL: {done.stderr.decode(errors='replace')[-800:]}")
    return [_append_row(rates) for rates in msgspec.json.decode(done.stdout, type=list[Rates])]


def _append_row(rates: Rates) -> Row:
    budgeted = rates.callers == _BUDGETED_CALLERS
    return Row(
        name=f"PostgreSQL: appends, {rates.callers} caller{'s' if rates.callers > 1 else ''}",
        measured=f"{rates.store:,.0f}/s",
        limit=f"bare batches: {rates.bare:,.0f}/s",
        share=f"{rates.share:.0%}",
        budget=f"≥ {MIN_APPEND_SHARE:.0%}" if budgeted else "-",
        met=rates.share >= MIN_APPEND_SHARE if budgeted else None,
    )


def on_nodes(size: Size, folder: Path) -> list[Row]:
    """What takes servers: one, and two, on one database."""
    try:
        with postgres_server() as database:
            product = Product(folder / "nodes", database.url())
            return _measure(size, product)
    except PostgresUnavailable as unavailable:
        raise NotMeasured(str(unavailable)) from None


def _measure(size: Size, product: Product) -> list[Row]:
    servers = [product.start()]
    try:
        product.create_agents(servers[0].port)
        alone = _turns(size, product, servers)
        servers.append(product.start())
        both = _turns(size, product, servers)
        return [_turn_row(alone, both), _delta_row(size, product, *servers)]
    finally:
        for server in servers:
            server.stop()


def _turns(size: Size, product: Product, servers: Sequence[Server]) -> float:
    """One-output turns a second, of all servers together."""
    specs = [
        Spec(
            kind="turn",
            port=server.port,
            connections=_CONNECTIONS // len(servers),
            seconds=2 * size.seconds,
            headers=product.headers,
            agent="instant",
        )
        for server in servers
    ]
    with ThreadPoolExecutor(len(specs)) as threads:
        return sum(result.rate for result in threads.map(load, specs))


def _turn_row(alone: float, both: float) -> Row:
    return Row(
        name=f"PostgreSQL: input and one-output turn, two nodes, {_CONNECTIONS} connections",
        measured=f"{both:,.0f}/s",
        limit=f"one node: {alone:,.0f}/s",
        share=f"{both / alone:.0%}",
    )


def _delta_row(size: Size, product: Product, runs: Server, shows: Server) -> Row:
    scene = Scene(sessions=10, followers=10, rate=20, seconds=4 * size.seconds)
    here = play(product, runs, scene).report
    there = play(product, runs, scene, shows).report
    return Row(
        name=f"PostgreSQL: a delta to a follower on another node ({there.deltas:,} deltas)",
        measured=f"p50 {there.p50_ms:.2f} ms, p99 {there.p99_ms:.2f} ms",
        limit=f"on the same: p50 {here.p50_ms:.2f} ms, p99 {here.p99_ms:.2f} ms",
        budget=f"added p99 ≤ {MAX_DELTA_MS:.0f} ms",
        met=there.p99_ms - here.p99_ms <= MAX_DELTA_MS,
        generator=there.cpu_share,
    )


def main() -> None:
    """Measure and print."""
    size = Size(rounds=3, seconds=1.5, many=0, starts=0, followers=0)
    with tempfile.TemporaryDirectory(prefix="sessile-nodes-") as folder:
        print(table.layout([*appends(size), *on_nodes(size, Path(folder))]))


if __name__ == "__main__":
    main()
