"""The lines of the table: what is run for each, and how a row is made of the results."""

import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from benchmarks import disk, followers
from benchmarks.load import Kind, Result, Spec
from benchmarks.processes import ROOT, NotMeasured, Server, environment, free_port, load
from benchmarks.product import FLAT, Product
from benchmarks.store import LONG, SHORT, Findings
from benchmarks.table import Row

MAX_READY_SECONDS = 0.8
MAX_IDLE_MIB = 70
MAX_DELTA_MS = 1.0
MAX_FORK_MS, MAX_FORK_WAIT_MS = 150, 20
MAX_COMPACT_MS = 50
MAX_FOLLOWER_KIB = 24
MAX_RAW_FACTOR = 2.0
FLAT_TOLERANCE = 1.25
MAX_INDEXED_US = 1_000
MAX_SCANNED_US = 10_000


class Size(Struct, frozen=True):
    """How much to measure."""

    rounds: int
    seconds: float
    many: int
    """Sessions of one agent, and events of one session."""
    starts: int
    followers: int


class Line(Struct, frozen=True):
    """A throughput beside the same one of the bare prototype; `least` is the budget for the share."""

    name: str
    kind: Kind
    connections: int
    agent: str
    least: float | None = None
    frames: bool = False
    setup_turns: int = 0


COMPARED = (
    Line("create a session, 1 connection", "create", 1, "instant"),
    Line("create a session, 16 connections", "create", 16, "instant", 0.6),
    Line("create a session, 64 connections", "create", 64, "instant", 0.6),
    Line("input and one-output turn, 1 connection", "turn", 1, "instant"),
    Line("input and one-output turn, 16 connections", "turn", 16, "instant"),
    Line("input and one-output turn, 64 connections", "turn", 64, "instant", 0.5),
    Line("100-delta turn over SSE, 1 at a time", "stream", 1, "hundred", None, True),
    Line("100-delta turn over SSE, 16 at a time", "stream", 16, "hundred", 0.6, True),
    Line("page of 20 events, 16 connections", "get", 16, "instant", None, False, 10),
)


def alone(size: Size, folder: Path) -> list[Row]:
    """What the machine does without any of the design: disk and HTTP."""
    found = disk.measure(folder)
    rows = [
        Row(name="fsync of a 4 KiB append, median", measured=f"{found.fsync_ms:.2f} ms"),
        Row(name="SQLite commits of one row, one after another", measured=_rate(found.commits_per_second)),
    ]
    port = free_port()
    server = Server(["-m", "benchmarks.echo", str(port)], port, folder)
    try:
        for connections in (1, 64):
            name = f"raw ASGI JSON echo, {connections} connection{'s' if connections > 1 else ''}"
            result = load(Spec(kind="echo", port=port, connections=connections, seconds=size.seconds))
            rows.append(Row(name=name, measured=_rate_of([result]), generator=result.cpu_share))
    finally:
        server.stop()
    return rows


def compared(size: Size, folder: Path, product: Product, server: Server, say: Callable[[str], None]) -> list[Row]:
    """Every COMPARED line: product and bare by turns, in every round."""
    port = free_port()
    bare = Server(["-m", "benchmarks.bare", str(folder / "bare.db"), str(port)], port, folder)
    pairs: dict[Line, list[tuple[Result, Result]]] = {line: [] for line in COMPARED}
    failures: dict[Line, str] = {}
    try:
        for number in range(size.rounds):
            for line in COMPARED:
                say(f"round {number + 1} of {size.rounds}: {line.name}")
                try:
                    pairs[line].append(_pair(line, size, product, server, bare, bare_first=number % 2 == 1))
                except NotMeasured as failure:
                    failures[line] = str(failure)
    finally:
        bare.stop()
    rows = []
    for line in COMPARED:
        if line in failures:
            rows.append(Row(name=line.name, failure=failures[line]))
        else:
            rows += _compared_rows(line, pairs[line])
    return rows


def _pair(
    line: Line, size: Size, product: Product, server: Server, bare: Server, *, bare_first: bool
) -> tuple[Result, Result]:
    def spec(port: int, headers: dict[str, str]) -> Spec:
        return Spec(
            kind=line.kind,
            port=port,
            connections=line.connections,
            seconds=size.seconds,
            headers=headers,
            agent=line.agent,
            setup_turns=line.setup_turns,
        )

    if bare_first:
        limit = load(spec(bare.port, product.headers))
        return load(spec(server.port, product.headers)), limit
    return load(spec(server.port, product.headers)), load(spec(bare.port, product.headers))


def _compared_rows(line: Line, pairs: list[tuple[Result, Result]]) -> list[Row]:
    ours, limits = zip(*pairs, strict=True)
    share = statistics.median(our.rate / limit.rate for our, limit in pairs)
    budget = "-" if line.least is None else f"≥ {line.least:.0%}"
    rows = [
        Row(
            name=line.name,
            measured=_rate_of(ours, first_byte=line.frames),
            limit=_rate_of(limits, first_byte=line.frames),
            share=f"{share:.0%}",
            budget=budget,
            met=None if line.least is None else share >= line.least,
            generator=max(result.cpu_share for pair in pairs for result in pair),
        )
    ]
    if line.frames and line.least is not None:
        share = statistics.median(our.frame_rate / limit.frame_rate for our, limit in pairs)
        rows.append(
            Row(
                name="… in frames, each checked",
                measured=_rate(statistics.median(our.frame_rate for our in ours)),
                limit=_rate(statistics.median(limit.frame_rate for limit in limits)),
                share=f"{share:.0%}",
                budget=budget,
                met=share >= line.least,
            )
        )
    return rows


def fill(size: Size, product: Product) -> Findings:
    """Fill the product's store while no server owns it."""
    arguments = [str(product.database()), "instant", str(size.many), str(size.many)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.store", *arguments],
        capture_output=True,
        env=environment(),
        cwd=ROOT,
        timeout=600,
        check=False,
    )
    if done.returncode:
        raise NotMeasured(f"the store could not be filled: {done.stderr.decode(errors='replace')[-800:]}")
    return msgspec.json.decode(done.stdout, type=Findings)


def flat(size: Size, product: Product, server: Server, say: Callable[[str], None]) -> list[Row]:
    """The same request in a session of 20 events and in a very long one, by turns.

    The short sessions take one turn a round each, so that they stay short.
    """
    rows = []
    events = f"/v2/agents/{FLAT}/sessions/{{}}/events?limit=20"
    for name, path in (
        ("first page of 20 events", events),
        ("last page of 20 events", f"{events}&order=desc"),
        ("one more turn", None),
    ):
        full_name = f"{name}, in a session of {size.many:,} and of 20"
        say(full_name)
        specs = [
            Spec(
                kind="get" if path else "turn",
                port=server.port,
                seconds=size.seconds,
                headers=product.headers,
                agent=FLAT,
                session_keys=keys,
                requests=0 if path else len(SHORT),
                path=path.format(keys[0]) if path else "",
            )
            for keys in ([LONG], SHORT)
        ]
        try:
            pairs = [_in_order(specs, number) for number in range(max(size.rounds, 3))]
        except NotMeasured as failure:
            rows.append(Row(name=full_name, failure=str(failure)))
            continue
        share = statistics.median(long.p50_ms / short.p50_ms for long, short in pairs)
        long, short = (statistics.median(pair[side].p50_ms for pair in pairs) for side in (0, 1))
        rows.append(
            Row(
                name=full_name,
                measured=f"p50 {long:.2f} ms",
                limit=f"p50 {short:.2f} ms",
                share=f"{share:.0%}",
                budget="≤ 125 %",
                met=share <= FLAT_TOLERANCE,
                generator=max(result.cpu_share for pair in pairs for result in pair),
            )
        )
    return rows


def _in_order(specs: list[Spec], number: int) -> tuple[Result, Result]:
    if number % 2:
        second = load(specs[1])
        return load(specs[0]), second
    return load(specs[0]), load(specs[1])


def pages(size: Size, product: Product, server: Server, found: Findings) -> list[Row]:
    """Query plans, and a page of sessions among many."""
    bad = "; ".join(f"{name}: {', '.join(steps)}" for name, steps in found.plans.items())
    factor = found.store_us / found.raw_us
    sessions = f"page of 20 sessions among {found.sessions:,}"
    rows = [
        Row(
            name="query plans of pages and turns",
            measured=bad or "all by index",
            budget="no scan, no sort",
            met=not bad,
        ),
        Row(
            name=f"{sessions}, store in this process",
            measured=f"{found.store_us:.0f} µs",
            limit=f"{found.raw_us:.0f} µs (raw query; {found.raw_on_thread_us:.0f} on another thread)",
            share=f"{factor:.0%}",
            budget="≤ 200 %",
            met=factor <= MAX_RAW_FACTOR,
        ),
        Row(name="… among few", measured=f"{found.store_few_us:.0f} µs"),
        Row(name="… of all agents", measured=f"{found.all_agents_us:.0f} µs"),
        Row(
            name="… with a metadata filter that has an index",
            measured=f"{found.indexed_us:.0f} µs",
            budget=f"≤ {MAX_INDEXED_US:,} µs",
            met=found.indexed_us <= MAX_INDEXED_US,
        ),
        Row(
            name="… with one that has none: a page looks at 1,000",
            measured=f"{found.scanned_us:.0f} µs",
            budget=f"≤ {MAX_SCANNED_US:,} µs",
            met=found.scanned_us <= MAX_SCANNED_US,
        ),
        Row(
            name=f"fork of {found.fork_events:,} events",
            measured=f"{found.fork_ms:.0f} ms",
            budget=f"≤ {MAX_FORK_MS} ms",
            met=found.fork_ms <= MAX_FORK_MS,
        ),
        Row(
            name="… longest wait of another writer meanwhile",
            measured=f"{found.fork_wait_ms:.1f} ms",
            budget=f"≤ {MAX_FORK_WAIT_MS} ms",
            met=found.fork_wait_ms <= MAX_FORK_WAIT_MS,
        ),
        Row(
            name=f"commit of a summary over {found.compact_events:,} events, never compacted",
            measured=f"{found.compact_ms:.0f} ms",
            budget=f"≤ {MAX_COMPACT_MS} ms",
            met=found.compact_ms <= MAX_COMPACT_MS,
        ),
        Row(
            name="… longest wait of another writer meanwhile",
            measured=f"{found.compact_wait_ms:.1f} ms",
            budget=f"≤ {MAX_COMPACT_MS} ms",
            met=found.compact_wait_ms <= MAX_COMPACT_MS,
        ),
        Row(
            name=f"commit of a summary over {found.events:,} events, never compacted",
            measured=f"{found.cover_ms:.0f} ms",
        ),
        Row(name="… reading the history then", measured=f"{found.history_ms:.1f} ms"),
    ]
    path = "/v2/agents/instant/sessions?limit=20"
    for connections in (1, 16):
        name = f"{sessions}, over HTTP, {connections} connection{'s' if connections > 1 else ''}"
        try:
            spec = Spec(kind="get", port=server.port, headers=product.headers, path=path, seconds=size.seconds)
            result = load(msgspec.structs.replace(spec, connections=connections))
            rows.append(Row(name=name, measured=_rate_of([result]), generator=result.cpu_share))
        except NotMeasured as failure:
            rows.append(Row(name=name, failure=str(failure)))
    return rows


def delta(size: Size, product: Product, server: Server) -> Row:
    """From a paced model giving a delta to the client having it."""
    spec = Spec(kind="paced", port=server.port, headers=product.headers, agent="paced", sessions=1)
    result = load(msgspec.structs.replace(spec, requests=max(2, size.rounds)))
    return Row(
        name=f"added latency per delta, one stream ({result.deltas:,} deltas)",
        measured=f"p50 {result.delta_p50_ms:.2f} ms, p99 {result.delta_p99_ms:.2f} ms",
        budget="p99 ≤ 1 ms",
        met=result.delta_p99_ms <= MAX_DELTA_MS,
        generator=result.cpu_share,
    )


def idle_followers(size: Size, product: Product, server: Server) -> Row:
    """Resident memory for each follower of fifty sessions in which nothing happens."""
    limit = followers.raise_file_limit()
    if size.followers + 200 > limit:
        raise NotMeasured(f"the system allows {limit} open files")
    keys = []
    for _ in range(50):
        answer = product.post(server.port, "/v2/agents/instant/sessions", {"name": "A session to follow"})
        keys.append(msgspec.json.decode(answer)["key"])
    paths = [f"/v2/agents/instant/sessions/{key}/events" for key in keys]
    name = f"{size.followers:,} idle followers, memory of each"
    budget = f"≤ {MAX_FOLLOWER_KIB} KiB"
    followers.bytes_each(server, paths, 50, product.headers)
    each = followers.bytes_each(server, paths, size.followers, product.headers)
    if each is None:
        return Row(name=name, measured="skipped: no /proc", budget=budget)
    return Row(name=name, measured=f"{each / 1024:.1f} KiB", budget=budget, met=each <= MAX_FOLLOWER_KIB * 1024)


def start_and_idle(size: Size, product: Product, settle: Callable[[], None]) -> list[Row]:
    """The shipped command: process start to the first 200 of /readyz, and resident memory a moment later."""
    ready, resident = [], []
    for number in range(size.starts + 1):
        server = product.start_shipped()
        try:
            settle()
            if number:
                ready.append(server.ready_seconds)
                resident.append(server.resident_bytes())
        finally:
            server.stop()
    seconds = statistics.median(ready)
    rows = [
        Row(
            name=f"start to ready, median of {len(ready)}",
            measured=f"{seconds:.2f} s",
            budget=f"≤ {MAX_READY_SECONDS} s",
            met=seconds <= MAX_READY_SECONDS,
        )
    ]
    known = [value / 2**20 for value in resident if value is not None]
    if not known:
        return [*rows, Row(name="idle memory", measured="skipped: no /proc")]
    mib = statistics.median(known)
    budget = f"≤ {MAX_IDLE_MIB} MiB"
    return [*rows, Row(name="idle memory", measured=f"{mib:.0f} MiB", budget=budget, met=mib <= MAX_IDLE_MIB)]


def _rate(value: float) -> str:
    return f"{value:,.0f}/s"


def _rate_of(results: Sequence[Result], *, first_byte: bool = False) -> str:
    def middle(name: str) -> float:
        return float(statistics.median(getattr(result, name) for result in results))

    first = f", first byte {middle('first_byte_p50_ms'):.1f}" if first_byte else ""
    return f"{_rate(middle('rate'))} (p50 {middle('p50_ms'):.1f}, p99 {middle('p99_ms'):.1f}{first} ms)"
