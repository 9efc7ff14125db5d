import ast
import re
import typing
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import msgspec
import pytest

from sessile.api import app, docs, errors, metrics
from sessile.auth.roles import AGENT_ROLES, API_ROLES
from sessile.domain import templates
from sessile.ports import ModelFault, ToolFault
from sessile.wire import agents, events, inputs, limits, sessions, tool_configurations, tool_servers
from sessile.wire.errors import (
    AgentDisabled,
    FenceLost,
    SessileError,
    SessionDisabled,
    StorageUnavailable,
    TemplateInvalid,
    UnknownModel,
)

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "sessile"
DOCUMENT = (ROOT / "PROTOCOL.md").read_text()
NAMED = re.compile(r"`([^`]+)`")

Row = dict[str, str]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def parse(text: str) -> dict[str, list[Row]]:
    """Every table by the title of its first column; rows are maps of column titles to cells."""
    tables: dict[str, list[Row]] = {}
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("|") or (number and lines[number - 1].startswith("|")):
            continue
        titles = cells(line)
        assert set(lines[number + 1]) <= set("|-"), f"no rule below {line!r}"
        rows = []
        for row in lines[number + 2 :]:
            if not row.startswith("|"):
                break
            assert len(cells(row)) == len(titles), f"{row!r} does not fit {titles}"
            rows.append(dict(zip(titles, cells(row), strict=True)))
        assert titles[0] not in tables, f"two tables start with {titles[0]!r}"
        tables[titles[0]] = rows
    return tables


@cache
def tables() -> dict[str, list[Row]]:
    return parse(DOCUMENT)


def named(cell: str) -> list[str]:
    return NAMED.findall(cell)


def keyed(title: str) -> dict[str, Row]:
    """The rows of a table by the code in their first cell; a doubled one is refused."""
    rows = {}
    for row in tables()[title]:
        for name in named(row[title]):
            assert name not in rows, f"{name} stands twice in the table {title!r}"
            rows[name] = row
    return rows


def section(title: str) -> str:
    found = re.search(rf"^#+ [\d.]+ {re.escape(title)}$(.*?)(?=^#)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def tags(union: object) -> dict[str, type[msgspec.Struct]]:
    return {str(kind.__struct_config__.tag): kind for kind in typing.get_args(union)}


def field_names(*kinds: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for kind in kinds for field in msgspec.structs.fields(kind)}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call in the shipped code, with the last part of the name that is called."""
    for path in SOURCES.rglob("*.py"):
        if "testing" in path.parts or path == SOURCES / "wire" / "events.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                match node.func:
                    case ast.Name(id=name) | ast.Attribute(attr=name):
                        yield name, node


def texts(nodes: Sequence[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def first_arguments(*functions: str) -> set[str]:
    return {text for name, call in calls() if name in functions for text in texts(call.args[:1])}


def leaves(kind: type[SessileError] = SessileError) -> Iterator[type[SessileError]]:
    """The errors of the wire; a client has some of its own."""
    children = [child for child in kind.__subclasses__() if child.__module__ == kind.__module__]
    if not children:
        yield kind
    for child in children:
        yield from leaves(child)


def test_tables_are_parsed() -> None:
    text = "x\n\n| A | B |\n|---|---|\n| `a` | 1 |\n| `b` | |\n\ny\n\n| C |\n|---|\n"
    assert parse(text) == {"A": [{"A": "`a`", "B": "1"}, {"A": "`b`", "B": ""}], "C": []}
    with pytest.raises(AssertionError):
        parse("| A | B |\n|---|---|\n| a |\n")


def test_limits() -> None:
    constants = {name: str(value) for name, value in vars(limits).items() if name.isupper()}
    assert {name: row["Value"] for name, row in keyed("Limit").items()} == constants


def test_codes_of_limits_exist() -> None:
    known = {*keyed("Code"), *keyed("Turn error code"), *keyed("Tool error code")}
    assert {code for row in tables()["Limit"] for code in named(row["Passing it"])} <= known


def test_error_codes_and_statuses() -> None:
    kinds = [kind for kind in leaves() if kind is not FenceLost]
    statuses = {kind.code: str(errors.status_of(kind())) for kind in [*kinds, SessileError]}
    assert {code: row["Status"] for code, row in keyed("Code").items()} == statuses


def test_what_is_not_built_names_real_codes() -> None:
    rows = tables()["Part"]
    assert rows
    for row in rows:
        for status, code in re.findall(r"(\d{3}) `(\w+)`", row["How the server answers today"]):
            assert keyed("Code")[code]["Status"] == status, row["Part"]


def test_error_body() -> None:
    kinds = (errors.Error, errors.BadRequestError, errors.NotFoundError)
    assert keyed("Error field").keys() == field_names(*kinds)


def test_endpoints() -> None:
    written = [(row["Method"], *named(row["Path"]), row["Operation"], row["Success"]) for row in tables()["Method"]]
    served = [(route.method, route.path, route.operation, str(route.status)) for route in app.ROUTES]
    pages = {re.sub("^/docs/.+", "/docs/{asset}", path) for path in ("/openapi.json", metrics.PATH, *docs.PAGES)}
    served += [("GET", path, "none", "307" if path == "/" else "200") for path in pages]
    assert sorted(written) == sorted(served)


def test_assets_of_the_page() -> None:
    assets = {path.removeprefix("/docs/") for path in docs.PAGES if path.startswith("/docs/")}
    assert assets <= set(named(section("The server")))


def test_roles() -> None:
    def cell(api: bool, agent: bool) -> str:
        return {(True, True): "any", (True, False): "all", (False, True): "one", (False, False): "no"}[api, agent]

    expected = {
        route.operation: {
            f"`{role}`": cell(role in route.roles.api, role in route.roles.agent and role in AGENT_ROLES)
            for role in API_ROLES
        }
        for route in app.ROUTES
        if route.roles is not None
    }
    (streaming,) = [route.streaming for route in app.ROUTES if route.streaming is not None]
    assert streaming.roles is next(route.roles for route in app.ROUTES if route.operation == "getTurn")
    written = {row["Operation"]: {k: v for k, v in row.items() if k != "Operation"} for row in tables()["Operation"]}
    assert written == expected


def test_event_types_and_fields() -> None:
    envelope = field_names(events.Event)
    durable, frames = tags(events.ContractEvent), tags(events.LiveFrame)
    kinds = {**durable, **frames, **tags(events.AnyEvent)}
    for name, row in keyed("Type").items():
        in_log = name not in frames
        assert row["Kind"] == ("durable" if name in durable else "record" if in_log else "frame")
        expected = field_names(kinds[name]) - (envelope if in_log else set()) if name in kinds else set()
        assert set(named(row["Fields"])) == expected, name
    assert keyed("Type").keys() == {*durable, *frames, *events.RECORD_TYPES}
    assert keyed("Envelope field").keys() == envelope


def test_which_events_are_emitted() -> None:
    kinds = tags(events.AnyEvent) | tags(events.LiveFrame)
    made = {name for name, _ in calls()}
    expected = {name: "yes" if name in kinds and kinds[name].__name__ in made else "no" for name in keyed("Type")}
    assert {name: row["Emitted today"] for name, row in keyed("Type").items()} == expected


def test_stop_reasons() -> None:
    assert keyed("Stop reason").keys() == set(typing.get_args(sessions.StopReason))
    reasons = {row["Stop reason"] for row in tables()["Turn error code"]}
    assert reasons <= keyed("Stop reason").keys()


def test_turn_error_codes() -> None:
    in_calls = {
        text
        for name, call in calls()
        if name == "TurnError"
        for text in texts([keyword.value for keyword in call.keywords if keyword.arg == "code"])
    }
    from_models = first_arguments("ModelFault")
    assert from_models
    assert from_models == set(re.findall(r"`(model_\w+)`", ModelFault.__doc__ or ""))
    passed_on = {
        kind.code for kind in (UnknownModel, TemplateInvalid, AgentDisabled, SessionDisabled, StorageUnavailable)
    }
    assert keyed("Turn error code").keys() == from_models | in_calls | passed_on


def test_tool_error_codes() -> None:
    from_tools = first_arguments("ToolFault")
    assert from_tools == set(re.findall(r"`(\w+)`", ToolFault.__doc__ or ""))
    closing = set()
    for node in ast.parse((SOURCES / "runner" / "open_turn.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            closing |= set(texts(node.value.elts[:1]))
    assert closing
    assert keyed("Tool error code").keys() == from_tools | first_arguments("_failure") | closing


def test_response_headers() -> None:
    found = set()
    for path in (SOURCES / "api").glob("*.py"):
        if path.stem == "openapi":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                found |= set(texts([key for key in node.keys if key is not None]))
            elif isinstance(node, ast.Assign):
                found |= set(texts([target.slice for target in node.targets if isinstance(target, ast.Subscript)]))
    one_word = {"allow", "etag", "location", "vary"}
    assert keyed("Response header").keys() == {name for name in found if "-" in name or name in one_word}


def test_request_headers() -> None:
    names = re.compile(rb"[a-z]+(-[a-z]+)*")
    found = set()
    for path in (SOURCES / "api").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=bytes(name)), *_]):
                    found.add(name.decode())
                case ast.Tuple(elts=elements):
                    values = [element.value for element in elements if isinstance(element, ast.Constant)]
                    found |= {name.decode() for name in values if isinstance(name, bytes) and names.fullmatch(name)}
                case ast.Compare(left=ast.Constant(value=bytes(name))) if b"-" in name:
                    found.add(name.decode())
    assert found
    assert keyed("Request header").keys() == found


def test_query_parameters_of_lists() -> None:
    queries = {route.operation: route.query for route in app.ROUTES if route.query is not None}
    assert keyed("Query parameter").keys() == field_names(queries.pop("listAgentEvents"))
    (streaming,) = [route.streaming for route in app.ROUTES if route.streaming is not None]
    assert keyed("Stream parameter").keys() == field_names(streaming.query)
    for operation, query in queries.items():
        line = re.search(rf"^- {operation} takes .*(\n .*)*", DOCUMENT, re.MULTILINE)
        assert line is not None
        assert field_names(query) <= set(named(line[0])), operation


@pytest.mark.parametrize(
    ("title", "kinds"),
    [
        ("Model field", (agents.AgentModel,)),
        ("Retry field", (agents.RetryConfiguration,)),
        ("Step field", (agents.FirstAgentStep,)),
        ("Instruction field", (agents.InlineInstruction,)),
        ("Lambda field", (tool_configurations.LambdaToolConfiguration,)),
        ("Agent field", (agents.Agent, agents.CreateAgentRequest, agents.UpdateAgentRequest)),
        ("Tool server field", (tool_servers.ToolServer, tool_servers.CreateToolServerRequest)),
        ("Session field", (sessions.Session, sessions.CreateSessionRequest, sessions.UpdateSessionRequest)),
        ("Input field", (inputs.InputMessageRequest,)),
        ("Interrupt field", (inputs.InterruptRequest,)),
        ("Tool output field", (inputs.ToolOutputRequest,)),
        ("Client field", (tool_configurations.ClientToolConfiguration,)),
        ("Answer field", (inputs.InputResponse,)),
        ("Waiting input field", (inputs.WaitingInput,)),
        ("Turn field", (events.Turn,)),
    ],
)
def test_fields(title: str, kinds: tuple[type[msgspec.Struct], ...]) -> None:
    tag = {"type"} if title in ("Input field", "Waiting input field") else set()
    assert keyed(title).keys() == field_names(*kinds) | tag


def test_fields_that_are_only_named() -> None:
    rows = keyed("Agent field")
    assert set(named(rows["compaction"]["Given by a caller"])) == field_names(agents.CompactionConfig)
    assert set(named(rows["tool_output_offloading"]["Given by a caller"])) == field_names(agents.ToolOutputOffloading)
    assert set(named(rows["skills"]["Given by a caller"])) == field_names(agents.AgentSkill)
    assert field_names(sessions.Usage) <= set(named(section("Usage")))
    assert field_names(sessions.SessionContextUsage) <= set(named(section("Usage")))


def test_tool_types() -> None:
    rows = {name: row["Today"] for name, row in keyed("Tool type").items()}
    unread = {name for name, today in rows.items() if today == "kept unread"}
    assert unread == tool_configurations.VENDOR_TYPES
    assert rows.keys() - unread == tags(tool_configurations.ToolConfiguration).keys()


def test_templates() -> None:
    text = section("Instructions and templates")
    assert {*templates.ROOTS, *templates.DIRECTIVES} <= set(named(text))
    assert str(templates.MAX_RENDERED_CHARS) in text


def test_no_path_of_a_machine() -> None:
    assert not re.search(r"/(home|root|tmp|work|Users|usr)/", DOCUMENT)
