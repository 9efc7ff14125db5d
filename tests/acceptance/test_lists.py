"""Lists with filters and across agents, against a real server: what they give, what they refuse, who may see what."""

import asyncio
import secrets
from datetime import datetime
from typing import Any

import pytest

from acceptance.cli_support import environment, run
from acceptance.stage import Stage, refused
from sessile.client import AsyncClient
from sessile.testing.script import hang, say
from sessile.testing.upstream import Upstream
from sessile.wire.errors import InvalidFilter, InvalidParameter

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

PEOPLE: dict[str, dict[str, Any]] = {
    "anna": {"role": "premium", "tier": 3, "tags": ["vip", 7], "a.b": {"weird key": True}},
    "ben": {"role": "premium", "tier": 1, "tags": []},
    "cleo": {"role": "basic", "tier": "3"},
    "dan": {},
}
BROKEN = [
    ("tier = = 3", 8),
    ("tier =", 7),
    ("(tier = 3", 10),
    ("role = 'premium", 8),
    ("role LIKE 3", 11),
    ("vip < true", 5),
    ("role = premium", 8),
    ("tier = 1; DROP TABLE sessions", 9),
    ("tier = 99999999999999999999", 8),
    (" AND ".join(["tier = 1"] * 51), 656),
    ("(" * 40 + "a=1" + ")" * 40, 9),
    (f"a IN ({', '.join(['1'] * 101)})", 307),
    ("a\0 = 1", 2),
    ("", 1),
]


async def people(stage: Stage) -> str:
    """An agent with a session for everybody."""
    agent = await stage.agent()
    for key, metadata in PEOPLE.items():
        await stage.session(agent, key=key, name=f"Talk with {key.title()}", metadata=metadata)
    return agent


async def found(stage: Stage, path: str, **params: Any) -> list[str]:
    """The keys on all pages."""
    keys: list[str] = []
    while True:
        page = await stage.get(path, **params)
        keys += [session["key"] for session in page["sessions"]]
        if "page_key" not in page["metadata"]:
            return keys
        params["page_key"] = page["metadata"]["page_key"]


async def key_of(stage: Stage, *arguments: str) -> dict[str, str]:
    """The header of a new API key."""
    done = await run(environment(stage.server.url), "keys", "create", "k", *arguments, "--data", str(stage.server.data))
    assert done.code == 0, done.stderr
    return {"x-api-key": done.stdout.strip()}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("role = 'premium' AND tier >= 2", ["anna"]),
        ("role = 'premium'", ["ben", "anna"]),
        ("tier != 3", ["cleo", "ben"]),
        ("NOT (tier IS NOT NULL)", ["dan"]),
        ("7 IN tags OR role LIKE 'b%'", ["cleo", "anna"]),
        ('"a.b"."weird key" = true', ["anna"]),
        ("role NOT IN ('basic')", ["ben", "anna"]),
        ("role = '''; DROP TABLE sessions; --'", []),
    ],
)
async def test_a_filter_on_metadata(stage: Stage, where: str, expected: list[str]) -> None:
    agent = await people(stage)
    path = f"/v2/agents/{agent}/sessions"
    assert await found(stage, path, metadata_filter=where) == expected
    assert await found(stage, path, metadata_filter=where, limit=1) == expected
    assert await found(stage, "/v2/sessions", metadata_filter=where, agent_key=agent) == expected


@pytest.mark.parametrize(("where", "at"), BROKEN)
async def test_a_broken_filter_is_told_with_its_place(stage: Stage, where: str, at: int) -> None:
    agent = await stage.agent()
    for path in (f"/v2/agents/{agent}/sessions", "/v2/sessions"):
        answer = await stage.client.get(path, params={"metadata_filter": where})
        body = refused(answer, 400, "invalid_filter", "metadata_filter")
        assert f"at character {at}\n" in body["field_errors"]["metadata_filter"]


@pytest.mark.parametrize("pattern", ["(", "a{1001}", "*", "[z-a]", r"(a)\1", "(?=a)", "(((a{100}){100}){100})"])
async def test_what_is_no_pattern_is_refused(stage: Stage, pattern: str) -> None:
    agent = await stage.agent()
    for path in (f"/v2/agents/{agent}/sessions", "/v2/sessions", "/v2/agents"):
        answer = await stage.client.get(path, params={"filter": pattern})
        body = refused(answer, 400, "invalid_filter", "filter")
        assert "at character" in body["field_errors"]["filter"]


async def test_filters_have_a_length(stage: Stage) -> None:
    for name, length in (("filter", 1000), ("metadata_filter", 8000)):
        answer = await stage.client.get("/v2/sessions", params={name: "a" * (length + 1)})
        refused(answer, 400, "invalid_parameter", name)
    assert await found(stage, "/v2/sessions", filter="x" * 1000) == []


async def test_a_pattern_that_would_blow_up_elsewhere_is_answered(stage: Stage) -> None:
    agent = await stage.agent()
    await stage.session(agent, key="long", name="a" * 255, metadata={"a": "a" * 60_000})
    path = f"/v2/agents/{agent}/sessions"
    assert await found(stage, path, filter="(a*)*(a*)*(a|aa)+$") == ["long"]
    assert await found(stage, path, filter="(a*)*(a*)*b") == []
    assert await found(stage, path, metadata_filter=f"a LIKE '{'%a' * 500}%b'") == []


async def test_names_and_descriptions_are_searched(stage: Stage) -> None:
    agent = await people(stage)
    path = f"/v2/agents/{agent}/sessions"
    await stage.session(agent, key="eva", name="x", description="a talk with ANNA's mother")
    assert await found(stage, path, filter="Anna") == ["anna"]
    assert await found(stage, path, filter="(?i)anna") == ["eva", "anna"]
    assert await found(stage, path, filter="(?i)anna", metadata_filter="tier = 3") == ["anna"]


async def test_agents_are_searched_too_also_by_who_sees_only_some(stage: Stage) -> None:
    word = secrets.token_hex(6)
    agents = [await stage.agent(name=f"{word} {number}") for number in range(3)]
    hidden = await stage.agent(description=f"about {word}")

    async def listed(headers: dict[str, str] | None = None) -> list[str]:
        answer = await stage.client.get("/v2/agents", params={"filter": word}, headers=headers)
        return [agent["key"] for agent in answer.json()["agents"]]

    assert await listed() == [hidden, *reversed(agents)]
    assert await listed(await key_of(stage, "--agent-role", f"{agents[1]}=agent_viewer")) == [agents[1]]


async def test_sessions_of_all_agents_by_status_and_time(stage: Stage, upstream: Upstream) -> None:
    first, second = await stage.agent(), await stage.agent()
    word = {"word": secrets.token_hex(6)}
    where = f"word = '{word['word']}'"
    old = await stage.session(first, key="old", metadata=word)
    new = await stage.session(second, key="new", metadata=word)
    await stage.session(second, key="newest", metadata=word)
    upstream.add(say("Hi."))
    await stage.post(new)
    upstream.add(hang())
    async with stage.stream(old) as stream:
        await stream.until("input_message")
        assert await found(stage, "/v2/sessions", metadata_filter=where) == ["newest", "new", "old"]
        assert await found(stage, "/v2/sessions", metadata_filter=where, status="running") == ["old"]
        assert await found(stage, "/v2/sessions", metadata_filter=where, status="stopped") == ["new"]
        assert await found(stage, "/v2/sessions", metadata_filter=where, status="unstarted") == ["newest"]
        assert await found(stage, "/v2/sessions", agent_key=second, limit=1) == ["newest", "new"]
    created = (await stage.get(new))["created_at"]
    assert await found(stage, "/v2/sessions", metadata_filter=where, created_after=created) == ["newest"]
    assert await found(stage, "/v2/sessions", metadata_filter=where, created_before=created) == ["old"]
    assert await found(stage, "/v2/sessions", metadata_filter=where, updated_before=created) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "asleep"),
        ("created_after", "yesterday"),
        ("created_after", "2026-01-01T00:00:00"),
        ("created_before", "0"),
        ("updated_before", "2026-13-01T00:00:00Z"),
        ("agent_key", "no such key!"),
        ("order", "asc"),
        ("limit", "0"),
    ],
)
async def test_bad_parameters_are_refused(stage: Stage, name: str, value: str) -> None:
    answer = await stage.client.get("/v2/sessions", params={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")


async def test_page_keys_belong_to_one_kind_of_list(stage: Stage) -> None:
    agent = await people(stage)
    for path, other in (
        ("/v2/sessions", f"/v2/agents/{agent}/sessions"),
        (f"/v2/agents/{agent}/sessions", "/v2/sessions"),
    ):
        page_key = (await stage.get(path, limit=1))["metadata"]["page_key"]
        refused(await stage.client.get(other, params={"page_key": page_key}), 400, "invalid_page_key")


async def test_an_agent_that_is_not_there_is_not_found(stage: Stage) -> None:
    for path, params in (
        ("/v2/sessions", {"agent_key": "nobody"}),
        ("/v2/agents/nobody/sessions", {"filter": "a"}),
        ("/v2/agents/nobody/sessions", {"metadata_filter": "a = 1"}),
    ):
        refused(await stage.client.get(path, params=params), 404, "not_found")


async def test_who_has_roles_for_single_agents_sees_their_sessions(stage: Stage) -> None:
    mine, ours, theirs = await people(stage), await people(stage), await people(stage)
    roles = ["--agent-role", f"{mine}=agent_viewer", "--agent-role", f"{ours}=agent_developer"]
    headers = await key_of(stage, *roles, "--agent-role", f"{theirs}=agent_user")

    async def ask(**params: Any) -> Any:
        return await stage.client.get("/v2/sessions", params=params, headers=headers)

    seen = (await ask(metadata_filter="role = 'basic'")).json()["sessions"]
    assert [(session["agent_key"], session["key"]) for session in seen] == [(ours, "cleo"), (mine, "cleo")]
    assert len((await ask(limit=100)).json()["sessions"]) == 2 * len(PEOPLE)
    assert [s["key"] for s in (await ask(agent_key=mine, filter="Dan")).json()["sessions"]] == ["dan"]
    refused(await ask(agent_key=theirs), 403, "forbidden")
    refused(await ask(agent_key="nobody"), 403, "forbidden")
    user = await key_of(stage, "--role", "agent_user")
    refused(await stage.client.get("/v2/sessions", headers=user), 403, "forbidden")


async def test_many_filtered_lists_at_once(stage: Stage) -> None:
    agent = await people(stage)
    path = f"/v2/agents/{agent}/sessions"
    lists = await asyncio.gather(*(found(stage, path, metadata_filter=f"tier = {n % 4}") for n in range(40)))
    assert lists == [[["ben"], [], ["anna"], []][(n - 1) % 4] for n in range(40)]


async def test_the_client_lists_with_every_filter(stage: Stage) -> None:
    agent = await people(stage)
    async with AsyncClient(stage.server.url, stage.server.key) as client:
        anna = await client.sessions.get(agent, "anna")
        since = datetime.fromisoformat(anna.created_at)

        async def keys(*arguments: str, **filters: Any) -> list[str]:
            return [session.key async for session in client.sessions.list(*arguments, **filters)]

        assert await keys(agent, filter="Anna|Ben", metadata_filter="tier >= 1", limit=1) == ["ben", "anna"]
        assert await keys(agent, created_after=since, status="unstarted") == ["dan", "cleo", "ben"]
        assert await keys(agent, updated_before=since) == []
        assert (await keys(metadata_filter="role = 'basic'", limit=100))[0] == "cleo"
        assert [one.key async for one in client.agents.list(filter=f"^{agent}$")] == []
        with pytest.raises(InvalidFilter) as refusal:
            await keys(agent, metadata_filter="tier >")
        assert "metadata_filter" in (refusal.value.field_errors or {})
        with pytest.raises(InvalidParameter):
            await keys(created_before=datetime(2026, 1, 1))


async def test_the_command_line_lists_with_filters(stage: Stage) -> None:
    agent = await people(stage)

    async def rows(*arguments: str) -> list[list[str]]:
        done = await run(environment(stage.server.url), "sessions", "list", *arguments)
        assert done.code == 0, done.stderr
        return done.rows()

    assert [row[0] for row in await rows(agent, "--where", "tier >= 1", "--filter", "Anna")] == ["anna"]
    assert (await rows("--where", "role = 'basic'", "--status", "unstarted", "--limit", "1"))[0][:2] == [agent, "cleo"]
    broken = await run(environment(stage.server.url), "sessions", "list", agent, "--where", "tier >")
    assert broken.code != 0
    assert "at character 7" in broken.stderr
    listed = await run(environment(stage.server.url), "agents", "list", "--filter", f"^{agent}$")
    assert (listed.code, listed.stdout) == (0, "")
