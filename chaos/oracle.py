"""What must be true in the end. It reads only HTTP and the journal, and shares no code with what it judges."""

import asyncio
from collections import Counter
from typing import Any

import httpx

from chaos.load import AGENT, Acknowledged, Follower
from chaos.model import Model
from chaos.stand import Node, Stand

_PATIENCE_SECONDS = 60.0


class Verdict:
    """The figures of a run."""

    def __init__(self) -> None:
        self.accepted = self.ended = self.events = self.followed = self.moves = 0
        self.lost: list[str] = []
        self.doubled: list[str] = []
        self.broken: list[str] = []

    @property
    def good(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.doubled or self.broken)


async def judge(stand: Stand, followers: list[Follower], known: Acknowledged, model: Model) -> Verdict:
    """Wait until every turn has ended, read every log at every server, and compare."""
    verdict = Verdict()
    found: Counter[str] = Counter()
    for follower in followers:
        session = follower.session
        logs = [await _settled(node, session) for node in stand.nodes]
        log = logs[0]
        verdict.events += len(log)
        found.update(_token(event) for event in log if event["type"] == "input_message")
        verdict.broken += [f"{session}: {problem}" for problem in _problems(log, model)]
        if any(other != log for other in logs):
            verdict.broken.append(f"{session}: two servers do not have the same log")
        verdict.broken += [f"{session}: {problem}" for problem in await _misled(follower, log)]
        verdict.ended += sum(event["type"] == "turn_ended" for event in log)
        verdict.followed += len(follower.seen)
        verdict.moves += follower.moves
    verdict.accepted = len(found)
    verdict.lost = [token for token in known.inputs if not found[token]]
    verdict.doubled = [token for token, count in found.items() if count > 1]
    verdict.broken += [
        f"{token}: it was answered with the turns {turns}" for token, turns in known.turns.items() if len(turns) > 1
    ]
    return verdict


def _token(event: dict[str, Any]) -> str:
    return str(event["content"]).partition(" ")[0]


async def _settled(node: Node, session: str) -> list[dict[str, Any]]:
    """The log as a server has it, once no turn runs."""
    async with (
        asyncio.timeout(_PATIENCE_SECONDS),
        httpx.AsyncClient(base_url=node.url, headers=node.headers, timeout=_PATIENCE_SECONDS) as client,
    ):
        while True:
            if await _status(client, session) not in ("running", None):
                return await _log(client, session)
            await asyncio.sleep(0.05)


async def _status(client: httpx.AsyncClient, session: str) -> str | None:
    """How a session stands; None when the server cannot tell yet, because its database was away just now."""
    answer = await client.get(f"/v2/agents/{AGENT}/sessions/{session}")
    if answer.status_code == 503:
        return None
    return str(answer.raise_for_status().json()["status"])


async def _log(client: httpx.AsyncClient, session: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    page_key = ""
    while True:
        query = {"records": "true", "limit": "100", "page_key": page_key}
        answer = await client.get(f"/v2/agents/{AGENT}/sessions/{session}/events", params=query)
        if answer.status_code == 503:
            await asyncio.sleep(0.05)
            continue
        page = answer.raise_for_status().json()
        events += page["events"]
        page_key = page["metadata"].get("page_key", "")
        if not page_key:
            return events


async def _misled(follower: Follower, log: list[dict[str, Any]]) -> list[str]:
    """What is wrong with what a follower was shown; it is given time to see the end."""
    ids = [event["id"] for event in log]
    try:
        await follower.until(ids[-1:], _PATIENCE_SECONDS)
    except TimeoutError:
        return [f"a follower has seen {len(follower.seen)} of {len(ids)} events, and no more came"]
    return [] if follower.seen == ids else ["a follower was not shown the log: gaps, repeats or another order"]


def _problems(log: list[dict[str, Any]], model: Model) -> list[str]:
    """Everything that is wrong with one log."""
    numbers = [event["sequence"] for event in log]
    problems = [] if numbers == list(range(1, len(log) + 1)) else ["the sequence has gaps or repeats"]
    turns: dict[str, list[dict[str, Any]]] = {}
    for event in log:
        turns.setdefault(event["turn_id"], []).append(event)
    for turn, events in turns.items():
        problems += [f"{turn}: {problem}" for problem in _turn_problems(events, model)]
    return problems


def _turn_problems(events: list[dict[str, Any]], model: Model) -> list[str]:
    types = [event["type"] for event in events]
    problems = []
    if types[:2] != ["input_message", "turn_started"] or types.count("input_message") != 1:
        problems.append("it does not begin with one input")
        return problems
    if types.count("turn_ended") != 1 or types[-1] != "turn_ended":
        problems.append("it does not end once, at its end")
    calls = Counter(event["tool_call_id"] for event in events if event["type"] == "tool_input")
    outputs = Counter(event["tool_call_id"] for event in events if event["type"] == "tool_output")
    if calls != outputs or any(count > 1 for count in calls.values()):
        problems.append("calls and outputs do not match")
    last_call = max((place for place, kind in enumerate(types) if kind == "tool_output"), default=0)
    finals = [event for event in events[last_call:] if event["type"] == "agent_output" and not event.get("partial")]
    if len(finals) > 1:
        problems.append("it has more than one final output")
    token, _, tool = events[0]["content"].partition(" ")
    starts = model.starts[tool, token]
    done = any(event["type"] == "tool_output" and not event["error"] for event in events)
    if tool == "once" and starts > 1:
        problems.append(f"a tool that must not run twice was started {starts} times")
    if tool == "again" and calls and not starts and done:
        problems.append("a tool has an output and was never started")
    if types[-1] == "turn_ended" and events[-1]["stop_reason"] == "end_turn":
        text = finals[0]["content"] if finals else ""
        if not text.startswith(f"{token}:0 ") or text.count(f"{token}:") != len(text.split()):
            problems.append("its final output is not what the model said")
    return problems
