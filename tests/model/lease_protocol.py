"""The protocol of claims, leases and fencing tokens, small enough to look at every state it can reach.

One turn of one session: its model calls a tool that is not idempotent, then gives its final output. Two nodes share
the store. A step is one atomic thing that one of them, the network or the store does; nothing is said about time, so a
node may stall anywhere, and a lease may be found to have run out whenever its turn runs. A commit that was sent may be
carried out at any later moment, even after its sender has died, and its answer may be lost.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

NODES = (0, 1)
TAKES = 3
"""How often a turn is claimed in all, which bounds the states."""
STARTED, TOOL_INPUT, TOOL_OUTPUT, TOOL_UNKNOWN = "turn_started", "tool_input", "tool_output", "tool_unknown"
OUTPUT, ENDED = "agent_output", "turn_ended"

Log = tuple[str, ...]


class Rules(NamedTuple):
    """What the protocol promises; each can be taken out."""

    checks_the_fence: bool = True
    checks_where_it_writes: bool = True
    raises_the_fence: bool = True
    keeps_the_call_before_the_tool: bool = True
    reads_the_log_when_taking_up: bool = True


class Commit(NamedTuple):
    """An append on its way to the store. `sender` is None when nobody waits for its answer any more."""

    sender: int | None
    fence: int
    event: str
    checked: bool = False
    """Whether its token was found to be right, where that is not looked at again with the write."""


class Node(NamedTuple):
    """What one process knows of the turn. `fence` is 0 when it does not run it."""

    fence: int = 0
    seen: Log = ()
    waits: bool = False
    """For the answer to a commit."""
    ran: bool = False
    """Whether its tool has run, and the output is not sent yet."""
    alive: bool = True


class State(NamedTuple):
    """The store (log, token), the nodes, what is on its way, and how often the tool was started."""

    log: Log = (STARTED,)
    fence: int = 1
    claims: int = 1
    nodes: tuple[Node, ...] = (Node(fence=1, seen=(STARTED,)), Node())
    on_the_way: frozenset[Commit] = frozenset()
    tool_starts: int = 0

    @property
    def running(self) -> bool:
        return ENDED not in self.log

    def with_node(self, number: int, node: Node) -> "State":
        return self._replace(nodes=(*self.nodes[:number], node, *self.nodes[number + 1 :]))


Step = tuple[str, State]


def steps(state: State, rules: Rules) -> Iterator[Step]:
    """All that can happen next, each with a name."""
    for number in NODES:
        yield from _of_a_node(state, number, rules)
    for commit in state.on_the_way:
        yield from _of_the_store(state, commit, rules)


def wrong(state: State) -> str | None:
    """The promise that a state breaks."""
    outputs = sum(event in (TOOL_OUTPUT, TOOL_UNKNOWN) for event in state.log)
    if state.tool_starts > 1:
        return "a tool that is not idempotent started twice"
    if state.log.count(TOOL_INPUT) > 1 or state.log.count(OUTPUT) > 1 or state.log.count(ENDED) > 1:
        return "an event was appended twice"
    if outputs != state.log.count(TOOL_INPUT) if ENDED in state.log else outputs > state.log.count(TOOL_INPUT):
        return "a call of a tool does not have one output"
    if ENDED in state.log[:-1]:
        return "something came after the end of the turn"
    return None


class Explored(NamedTuple):
    """Every state that can be reached, with those that lead to it, and the shortest way to a broken promise."""

    before: dict[State, list[State]]
    broken: str | None
    way: list[str]


def explore(rules: Rules) -> Explored:
    """Breadth first, so that the first broken promise has the shortest way."""
    start = State()
    before: dict[State, list[State]] = {start: []}
    came: dict[State, tuple[State, str]] = {}
    todo = deque([start])
    while todo:
        state = todo.popleft()
        if (broken := wrong(state)) is not None:
            return Explored(before, broken, _way(state, came))
        for name, following in steps(state, rules):
            if following not in before:
                before[following] = []
                came[following] = (state, name)
                todo.append(following)
            before[following].append(state)
    return Explored(before, None, [])


def leading_to_the_end(explored: Explored) -> set[State]:
    """The states from which the turn can still end."""
    todo = [state for state in explored.before if not state.running]
    good = set(todo)
    while todo:
        for earlier in explored.before[todo.pop()]:
            if earlier not in good:
                good.add(earlier)
                todo.append(earlier)
    return good


def _of_a_node(state: State, number: int, rules: Rules) -> Iterator[Step]:
    node = state.nodes[number]
    if not node.alive:
        return
    if sum(other.alive for other in state.nodes) > 1:
        forgotten = frozenset(
            commit._replace(sender=None) if commit.sender == number else commit for commit in state.on_the_way
        )
        yield f"node {number} dies", state.with_node(number, Node(alive=False))._replace(on_the_way=forgotten)
    if state.running and state.claims < TAKES and not node.fence:
        fence = state.fence + 1 if rules.raises_the_fence else state.fence
        seen = state.log if rules.reads_the_log_when_taking_up else (STARTED,)
        taken = state.with_node(number, node._replace(fence=fence, seen=seen))
        yield f"node {number} takes the turn up", taken._replace(fence=fence, claims=state.claims + 1)
    if node.fence and not node.waits:
        yield from _next_step(state, number, rules)


def _next_step(state: State, number: int, rules: Rules) -> Iterator[Step]:
    """What a node that runs the turn does next: the loop of a turn."""
    node, seen = state.nodes[number], state.nodes[number].seen
    called, closed = TOOL_INPUT in seen, TOOL_OUTPUT in seen or TOOL_UNKNOWN in seen
    if not called and (node.ran or rules.keeps_the_call_before_the_tool):
        yield _send(state, number, TOOL_INPUT)
    elif not called or (not closed and seen[-1] == "ready"):
        ran = node._replace(ran=True, seen=tuple(event for event in seen if event != "ready"))
        yield f"node {number} runs the tool", state.with_node(number, ran)._replace(tool_starts=state.tool_starts + 1)
    elif not closed:
        yield _send(state, number, TOOL_OUTPUT if node.ran else TOOL_UNKNOWN)
    elif OUTPUT not in seen:
        yield _send(state, number, OUTPUT)
    elif ENDED not in seen:
        yield _send(state, number, ENDED)


def _send(state: State, number: int, event: str) -> Step:
    node = state.nodes[number]
    sent = state.on_the_way | {Commit(number, node.fence, event)}
    return f"node {number} sends {event}", state.with_node(number, node._replace(waits=True))._replace(on_the_way=sent)


def _of_the_store(state: State, commit: Commit, rules: Rules) -> Iterator[Step]:
    rest = state._replace(on_the_way=state.on_the_way - {commit})
    right = commit.fence == state.fence and state.running
    if rules.checks_the_fence and not commit.checked:
        if not right:
            yield f"the store refuses {commit.event}", _told(rest, commit, added=False)
            return
        if not rules.checks_where_it_writes:
            checked = commit._replace(checked=True)
            yield f"the store looks at {commit.event}", rest._replace(on_the_way=rest.on_the_way | {checked})
            return
    written = rest._replace(log=(*state.log, commit.event))
    yield f"the store appends {commit.event}", _told(written, commit, added=True)
    if commit.sender is not None:
        yield f"the store appends {commit.event}, its answer is lost", _told(written, commit, added=False)


def _told(state: State, commit: Commit, *, added: bool) -> State:
    """The sender goes on, or runs the turn no longer."""
    if commit.sender is None:
        return state
    node = state.nodes[commit.sender]
    if not added:
        return state.with_node(commit.sender, Node())
    fresh = ("ready",) if commit.event == TOOL_INPUT and not node.ran else ()
    return state.with_node(commit.sender, node._replace(waits=False, seen=(*node.seen, commit.event, *fresh)))


def _way(state: State, came: dict[State, tuple[State, str]]) -> list[str]:
    way: list[str] = []
    while state in came:
        state, name = came[state]
        way.append(name)
    return way[::-1]
