"""Whether a history of calls could have happened, one after the other, on one log that is only ever appended to.

A log gives all that anybody saw a single order: its entries stand in it, and a read of so many entries stands behind
the last of them. The history is linearizable if and only if nothing that had ended before something else began stands
behind it. Shares no code with the product; knows nothing of turns, only of ids in an order.
"""

from dataclasses import dataclass, field
from math import inf


@dataclass(frozen=True)
class Append:
    """An input that somebody sent, recognised by its token; `returned` when a server said that it has it."""

    token: str
    called: float
    returned: float | None = None


@dataclass(frozen=True)
class Read:
    """A read of the whole log: the ids of its entries."""

    called: float
    returned: float
    ids: list[str]


@dataclass(frozen=True)
class Head:
    """A read of the session: the id of its last entry that is no record, or None."""

    called: float
    returned: float
    last: str | None


@dataclass(frozen=True)
class Sighting:
    """An entry that a follower was shown."""

    at: float
    id: str


@dataclass
class History:
    """All that was called, by anybody, anywhere, on one clock."""

    appends: list[Append] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    follows: list[list[Sighting]] = field(default_factory=list)
    """Each from the start of the log."""


@dataclass(frozen=True)
class Entry:
    """An entry of the log as it is in the end; `token` when it is an input."""

    id: str
    token: str | None = None
    record: bool = False


@dataclass(frozen=True)
class _Placed:
    """Something with its place in the one order, and what is known of when it happened."""

    place: int
    called: float
    returned: float
    what: str


def problems(history: History, log: list[Entry]) -> list[str]:
    """Everything that cannot be, given the log in the end."""
    ids = [entry.id for entry in log]
    found = _shapes(history, ids) + _tokens(history, log)
    if found:
        return found
    return _order([*_entries(history, log), *_reads(history), *_heads(history, log)])


def _shapes(history: History, ids: list[str]) -> list[str]:
    """Nobody may have seen anything but a beginning of the log."""
    found = [] if len(set(ids)) == len(ids) else ["an entry is in the log twice"]
    for read in history.reads:
        if read.ids != ids[: len(read.ids)]:
            found.append(f"a read of {len(read.ids)} entries at {read.called:.3f} is no beginning of the log")
    for follow in history.follows:
        if [sighting.id for sighting in follow] != ids[: len(follow)]:
            found.append(f"a follower was shown {len(follow)} entries that are no beginning of the log")
    for head in history.heads:
        if head.last is not None and head.last not in ids:
            found.append(f"a session said at {head.called:.3f} that its last entry is one that the log does not have")
    return found


def _tokens(history: History, log: list[Entry]) -> list[str]:
    """Every input is in the log once at most, and if it was acknowledged, once."""
    tokens = [entry.token for entry in log if entry.token is not None]
    found = [f"{token} is in the log twice" for token in sorted(set(tokens)) if tokens.count(token) > 1]
    lost = [append.token for append in history.appends if append.returned is not None and append.token not in tokens]
    unknown = set(tokens) - {append.token for append in history.appends}
    return found + [f"{token} was acknowledged and is lost" for token in lost] + [f"nobody sent {t}" for t in unknown]


def _entries(history: History, log: list[Entry]) -> list[_Placed]:
    """An entry has happened once it was acknowledged, or anybody has seen it."""
    seen: dict[str, float] = {}
    sightings = [sighting for follow in history.follows for sighting in follow]
    sightings += [Sighting(head.returned, head.last) for head in history.heads if head.last is not None]
    for sighting in sightings:
        seen[sighting.id] = min(sighting.at, seen.get(sighting.id, inf))
    sent = {append.token: append for append in history.appends}
    placed = []
    for number, entry in enumerate(log):
        called, returned = -inf, seen.get(entry.id, inf)
        if entry.token is not None:
            append = sent[entry.token]
            called = append.called
            returned = min(returned, inf if append.returned is None else append.returned)
        placed.append(_Placed(2 * number + 1, called, returned, f"entry {number + 1} ({entry.token or entry.id})"))
    return placed


def _reads(history: History) -> list[_Placed]:
    return [
        _Placed(2 * len(read.ids), read.called, read.returned, f"a read of {len(read.ids)} entries")
        for read in history.reads
    ]


def _heads(history: History, log: list[Entry]) -> list[_Placed]:
    """A session may have said so until the next entry that moves its head. That it was there by then, is a sighting."""
    placed = []
    shown = [(number, entry.id) for number, entry in enumerate(log) if not entry.record]
    places = {id: number for number, id in shown}
    for head in history.heads:
        last = -1 if head.last is None else places.get(head.last, -1)
        until = next((number for number, _ in shown if number > last), len(log))
        placed.append(_Placed(2 * until, head.called, inf, f"a head after {last + 1} entries"))
    return placed


def _order(placed: list[_Placed]) -> list[str]:
    """Nothing may have ended before something began that stands before it."""
    found = [f"{item.what} was seen before it was sent" for item in placed if item.returned < item.called]
    latest: _Placed | None = None
    for item in sorted(placed, key=lambda item: (item.place, item.called)):
        if latest is not None and item.returned < latest.called:
            found.append(
                f"{item.what} was there at {item.returned:.3f}, before {latest.what} was asked for at "
                f"{latest.called:.3f}, which knows nothing of it"
            )
        if latest is None or item.called > latest.called:
            latest = item
    return found
