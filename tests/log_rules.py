"""What always holds in a log (PROTOCOL.md, section 6.3), checked on plain JSON. It shares no code with the product."""

from typing import Any

Log = list[dict[str, Any]]


def problems(log: Log) -> list[str]:
    """Everything that is wrong with the whole log of one session, records included; its last turn may still run."""
    found = []
    if [event["sequence"] for event in log] != list(range(1, len(log) + 1)):
        found.append("sequences have gaps or repeats")
    ids = [event["id"] for event in log]
    if len(set(ids)) < len(ids) or sorted(ids) != ids:
        found.append("ids repeat or do not sort in log order")
    turns = _turns(log)
    if len({turn[0]["turn_id"] for turn in turns}) < len(turns):
        found.append("a turn stands in two places")
    for number, turn in enumerate(turns, 1):
        found += [f"{turn[0]['turn_id']}: {problem}" for problem in _turn_problems(turn, number == len(turns))]
    return found


def _turns(log: Log) -> list[Log]:
    """Stretches of the log with the same turn id."""
    turns: list[Log] = []
    for event in log:
        if not turns or turns[-1][0]["turn_id"] != event["turn_id"]:
            turns.append([])
        turns[-1].append(event)
    return turns


def _turn_problems(turn: Log, may_run: bool) -> list[str]:
    types = [event["type"] for event in turn]
    found = []
    if types[:2] != ["input_message", "turn_started"] or types.count("turn_started") != 1:
        found.append("it does not begin with its input")
    elif turn[1]["input_event_id"] != turn[0]["id"]:
        found.append("it names another input")
    ended = types[-1] == "turn_ended"
    if types.count("turn_ended") > 1 or (not ended and not may_run):
        found.append("it does not end once, at its end")
    if ended:
        found += _end_problems(turn, types)
    return found + _call_problems(turn, ended) + _output_problems(turn)


def _end_problems(turn: Log, types: list[str]) -> list[str]:
    found = []
    reason = turn[-1]["stop_reason"]
    if (types[-2:] == ["session_interrupted", "turn_ended"]) != (reason == "interrupted"):
        found.append("an interrupt is not said, or said without one")
    if (turn[-1]["error"] is not None) != (reason in ("error", "limit")):
        found.append("its error does not fit its stop reason")
    if reason == "end_turn" and (types[-2] != "agent_output" or turn[-2].get("partial")):
        found.append("it came to its end without a final output")
    return found


def _call_problems(turn: Log, ended: bool) -> list[str]:
    """Each call is answered once, before the model is called again; what waits for clients is what is open."""
    found: list[str] = []
    waiting: dict[str, str] = {}
    seen = set()
    for event in turn:
        match event["type"]:
            case "tool_input":
                if event["tool_call_id"] in seen:
                    found.append("a call stands twice")
                seen.add(event["tool_call_id"])
                waiting[event["tool_call_id"]] = event["id"]
            case "tool_output":
                if waiting.pop(event["tool_call_id"], None) is None:
                    found.append("an output answers no open call")
            case "client_tool_pending":
                pending = [call["event_id"] for call in event["pending_calls"]]
                if pending != list(waiting.values()) or not pending:
                    found.append("it waits for other calls than those that are open")
            case "input_message" | "thinking" | "agent_output" | "turn_ended" | "session_interrupted" if waiting:
                found.append(f"calls are open before {event['type']}")
    if ended and waiting:
        found.append("calls are open at its end")
    return found


def _output_problems(turn: Log) -> list[str]:
    """At most one whole output after the last call, and no input; what was cut off stands last before the end."""
    whole, partial = 0, False
    for event in turn:
        if event["type"] in ("tool_input", "tool_output"):
            whole = 0
        elif event["type"] == "input_message" and (whole or partial):
            return ["an input joins after the last output"]
        elif event["type"] in ("agent_output", "thinking"):
            if partial:
                return ["the model was called again after an output that was cut off"]
            whole += event["type"] == "agent_output" and not event.get("partial")
            partial = bool(event.get("partial"))
    return ["it has two final outputs"] if whole > 1 else []
