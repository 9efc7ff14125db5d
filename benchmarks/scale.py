"""Sessile at a size that no machine here holds, from what was measured: `python -m benchmarks.scale`.

It prints the tables of docs/scale.md. The store is simulated event by event: appends arrive from thousands of turns,
wait in the lanes of their nodes, and commit in batches on one PostgreSQL. A node is simulated delta by delta: one event
loop takes deltas from models and writes frames to followers. Everything else is arithmetic over the same costs.
"""

import argparse
import heapq
import math
import random
import statistics
import sys

import msgspec
from msgspec import Struct


class Costs(Struct, frozen=True, kw_only=True):
    """What was measured on the machine of BENCH.md. Processor time, unless it says otherwise."""

    commit_ms: float = 1.2
    """How long a transaction on PostgreSQL takes beside that: four round trips and a sync."""
    transaction_us: float = 500
    """What a transaction takes of PostgreSQL's cores, whatever it carries."""
    append_us: float = 25
    """What each append in it takes: 550 of one alone, some 90 of each of eight, 30 of each of 128."""
    postgres_cores: int = 4
    lanes: int = 2
    """Transactions of a node that run at once."""
    batch: int = 128
    """Appends of one transaction at most."""
    turn_us: float = 600
    """A turn on its node: request, claim, history, model call, appends, answer; without its deltas."""
    delta_us: float = 40
    """Take a delta from a model and publish it."""
    frame_us: float = 25
    """Write a delta to one follower, alone."""
    gathered_us: float = 10
    """Write one more delta with the same frame."""
    relay_us: float = 30
    """Send a delta to another node and take it in there."""
    relays: float = 4_000
    """Deltas a second between nodes from which on their p99 is beyond 10 ms."""
    follower_kib: float = 18.3
    turn_kib: float = 30
    """Eleven were measured for a turn in a new session; the rest is its history."""
    event_bytes: float = 900
    """An event on disk with its index."""


class Load(Struct, frozen=True, kw_only=True):
    """How much there is to do."""

    sessions: int = 1_000_000
    turns: int = 10_000
    """Turns that run at any moment."""
    followers: int = 100_000
    """Open streams, spread evenly over the sessions whose turns run."""
    turn_seconds: float = 30
    speaking: float = 0.5
    """The share of a turn in which its model streams."""
    deltas: float = 20
    """Deltas a second of a model that streams."""
    appends: int = 6
    """Commits of a turn: its input, two tool calls and their outputs, its output and its end."""
    events: int = 9

    def times(self, factor: float) -> "Load":
        """So many times as many turns and followers."""
        return msgspec.structs.replace(self, turns=round(self.turns * factor), followers=round(self.followers * factor))

    @property
    def turns_a_second(self) -> float:
        return self.turns / self.turn_seconds

    @property
    def appends_a_second(self) -> float:
        return self.turns_a_second * self.appends

    @property
    def deltas_a_second(self) -> float:
        return self.turns * self.speaking * self.deltas

    @property
    def frames_a_second(self) -> float:
        return self.deltas_a_second * self.followers / self.turns


class Found(Struct, frozen=True):
    """What a simulation saw: how busy the thing was (1 is all of it), and how long something waited there."""

    busy: float
    p50_ms: float
    p99_ms: float


BUSY = 0.6
"""How busy anything may be on average and still take a burst."""
_SEED = 1


def store(rate: float, nodes: int, costs: Costs, seconds: float = 20.0) -> Found:
    """Appends at a rate, from the lanes of so many nodes, on one PostgreSQL that does one thing at a time.

    Its cores carry out the batches one after the other; the time of round trips and syncs passes beside that.
    """
    chance = random.Random(_SEED)
    waiting: list[list[float]] = [[] for _ in range(nodes)]
    free = [costs.lanes] * nodes
    ends: list[tuple[float, int, list[float]]] = []
    now, processor, used = 0.0, 0.0, 0.0
    arrival = chance.expovariate(rate)
    waits: list[float] = []
    while now < seconds:
        if ends and ends[0][0] < arrival:
            now, node, batch = heapq.heappop(ends)
            free[node] += 1
            waits += [now - begun for begun in batch]
        else:
            now = arrival
            arrival = now + chance.expovariate(rate)
            node = chance.randrange(nodes)
            waiting[node].append(now)
        if free[node] and waiting[node]:
            batch, waiting[node] = waiting[node][: costs.batch], waiting[node][costs.batch :]
            free[node] -= 1
            work = (costs.transaction_us + len(batch) * costs.append_us) * 1e-6 / costs.postgres_cores
            processor = max(processor, now) + work
            used += work
            heapq.heappush(ends, (processor + costs.commit_ms * 1e-3 * chance.uniform(0.7, 1.6), node, batch))
    return _found(used / seconds, waits)


def node(turns: int, followers: float, load: Load, costs: Costs, seconds: float = 5.0) -> Found:
    """How late the deltas of so many turns are at their followers, on one event loop.

    Deltas that come while a follower's frame waits go with it; so a busy node writes fewer and larger frames.
    """
    chance = random.Random(_SEED)
    period = 1 / load.deltas
    speakers = max(1, round(turns * load.speaking))
    due = [(chance.random() * period, number) for number in range(speakers)]
    heapq.heapify(due)
    pending: dict[int, list[float]] = {}
    now, used = 0.0, 0.0
    waits: list[float] = []
    while now < seconds:
        if due[0][0] <= now or not pending:
            at, number = heapq.heappop(due)
            heapq.heappush(due, (at + period * chance.uniform(0.8, 1.2), number))
            pending.setdefault(number, []).append(at)
            work = costs.delta_us * 1e-6
            now = max(now, at)
        else:
            number = next(iter(pending))
            deltas = pending.pop(number)
            work = followers * (costs.frame_us + costs.gathered_us * (len(deltas) - 1)) * 1e-6
            waits += [now + work - at for at in deltas]
        now += work
        used += work
    return _found(used / now, waits)


def cores(load: Load, costs: Costs, relayed: float) -> float:
    """Cores that all nodes need together when each is as busy as it may be; `relayed` deltas a second cross nodes."""
    work = (
        load.turns_a_second * costs.turn_us
        + load.deltas_a_second * costs.delta_us
        + load.frames_a_second * costs.frame_us
        + relayed * costs.relay_us
    )
    return work * 1e-6 / BUSY


def crossing(load: Load, nodes: int) -> float:
    """Deltas a second that go to other nodes when followers are spread over all nodes by chance."""
    each = load.followers / load.turns
    others = (nodes - 1) * (1 - (1 - 1 / nodes) ** each) if nodes > 1 else 0.0
    return load.deltas_a_second * others


def spread(load: Load, costs: Costs) -> int:
    """Nodes of one core that hold the load with followers spread by chance, which costs more the more there are."""
    nodes = 1
    while (needed := math.ceil(cores(load, costs, crossing(load, nodes)))) > nodes:
        nodes = needed
    return nodes


def parts(load: Load, costs: Costs) -> list[tuple[str, str, str]]:
    """What each part of the load costs."""
    nodes = math.ceil(cores(load, costs, 0))
    appending = store(load.appends_a_second, nodes, costs)
    memory = (load.followers * costs.follower_kib + load.turns * costs.turn_kib) / 2**20
    disk = load.turns_a_second * load.events * costs.event_bytes * 86_400 / 1e9
    return [
        ("turns begun and ended", f"{load.turns_a_second:,.0f}/s", _of_cores(load.turns_a_second * costs.turn_us)),
        ("deltas from models", f"{load.deltas_a_second:,.0f}/s", _of_cores(load.deltas_a_second * costs.delta_us)),
        ("frames to followers", f"{load.frames_a_second:,.0f}/s", _of_cores(load.frames_a_second * costs.frame_us)),
        (
            "appends on PostgreSQL",
            f"{load.appends_a_second:,.0f}/s",
            f"{appending.busy:.0%} of what one does; p99 {appending.p99_ms:.1f} ms",
        ),
        ("memory of turns and followers", f"{memory:.1f} GiB", f"{memory * 1024 / nodes:,.0f} MiB a node"),
        ("disk, kept for ever", f"{disk:,.0f} GB a day", f"{disk / 1000 * 365:,.0f} TB a year"),
    ]


def routed(load: Load, costs: Costs) -> list[tuple[str, str, str, str]]:
    """Requests by session against requests by chance: nodes, deltas between them, whether PostgreSQL keeps up."""
    by_session, by_chance = math.ceil(cores(load, costs, 0)), spread(load, costs)
    rows = []
    for name, nodes, relayed in (
        ("by session", by_session, 0.0),
        ("by chance", by_chance, crossing(load, by_chance)),
    ):
        fits = "yes" if relayed <= costs.relays else f"no, {relayed / costs.relays:,.0f} times too many"
        rows.append((name, f"{nodes}", f"{relayed:,.0f}/s", fits))
    return rows


def databases(rate: float, nodes: int, costs: Costs) -> int:
    """PostgreSQLs that are no busier than they may be, each with its share of the appends and of the nodes."""
    count = 1
    while store(rate / count, math.ceil(nodes / count), costs, seconds=5).busy > BUSY:
        count += 1
    return count


def growth(load: Load, costs: Costs) -> list[tuple[str, str, str, str, str]]:
    """More and more of it, routed by session, on one PostgreSQL."""
    rows = []
    for factor in (0.1, 1, 2, 5, 10, 20):
        more = load.times(factor)
        nodes = math.ceil(cores(more, costs, 0))
        appending = store(more.appends_a_second, nodes, costs)
        each = node(math.ceil(more.turns / nodes), more.followers / more.turns, more, costs)
        rows.append(
            (
                f"{more.turns:,} turns, {more.followers:,} followers",
                f"{nodes:,}",
                f"p99 {each.p99_ms:,.0f} ms",
                f"{min(appending.busy, 1):.0%}, p99 {appending.p99_ms:,.1f} ms",
                f"{databases(more.appends_a_second, nodes, costs)}",
            )
        )
    return rows


def report(load: Load, costs: Costs) -> str:
    """The tables, in Markdown."""
    tables = (
        (("part", "how much", "what it costs"), parts(load, costs)),
        (("requests are routed", "nodes", "deltas between nodes", "PostgreSQL passes them on"), routed(load, costs)),
        (
            ("load", "nodes of one core", "a delta, to its last follower", "PostgreSQL", "PostgreSQLs needed"),
            growth(load, costs),
        ),
    )
    return "\n".join(_table(head, rows) for head, rows in tables)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _of_cores(work_us: float) -> str:
    return f"{work_us * 1e-6:,.1f} cores"


def _found(busy: float, waits: list[float]) -> Found:
    waits.sort()
    return Found(busy, statistics.median(waits) * 1e3, waits[int(len(waits) * 0.99)] * 1e3)


def main() -> None:
    """Print the tables for the load and the costs that are given."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    for kind in (Load, Costs):
        for setting in msgspec.structs.fields(kind):
            option = f"--{setting.name.replace('_', '-')}"
            parser.add_argument(option, type=type(setting.default), default=setting.default)
    given = vars(parser.parse_args())
    load, costs = (msgspec.convert(given, kind) for kind in (Load, Costs))
    sys.stdout.write(report(load, costs))


if __name__ == "__main__":
    main()
