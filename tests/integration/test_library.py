"""Sessile inside a program: one database file, no server, the same client."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog

import sessile
from sessile.config import ConfigError, DatabaseInUse
from sessile.stores.sqlite.owner import owned
from sessile.testing.script import WaitFor, say
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.errors import NotFound, StorageUnavailable

DEMO = {"name": "demo"}


def lookup_order(order_number: str) -> dict[str, str]:
    """Look up an order of the shop by its number."""
    return {"order_number": order_number, "status": "shipped"}


async def prepare(client: sessile.AsyncClient, **agent: Any) -> None:
    await client.agents.create(**{"key": "shop", "name": "Shop", "model": DEMO, **agent})
    await client.sessions.create("shop", key="first")


async def test_a_conversation_stays_in_the_file(tmp_path: Path) -> None:
    async with sessile.open(tmp_path / "chat.db") as client:
        await prepare(client)
        answer = await client.events.send("shop", "first", "Hello!")
        assert answer.stop_reason == "end_turn"
        assert answer.text
    async with sessile.open(tmp_path / "chat.db") as client:
        outputs = [event async for event in client.events.list("shop", "first", types=["agent_output"])]
        assert [event.content for event in outputs] == [answer.text]


def test_the_synchronous_face(tmp_path: Path) -> None:
    with sessile.open(tmp_path / "chat.db") as client:
        client.agents.create(key="shop", name="Shop", model=DEMO)
        client.sessions.create("shop", key="first")
        with client.events.stream("shop", "first", "Hello!") as turn:
            assert "".join(turn.text())
        assert turn.stop_reason == "end_turn"
        assert [session.key for session in client.sessions.list("shop")] == ["first"]


@pytest.mark.parametrize("tools", [[lookup_order], {"lookup_order": lookup_order}], ids=["functions", "by name"])
async def test_functions_as_tools(tmp_path: Path, tools: Any) -> None:
    async with sessile.open(tmp_path / "chat.db", tools=tools) as client:
        await prepare(client, tool_configurations={"lookup_order": {"type": "lambda"}})
        answer = await client.events.send("shop", "first", "Where is my order A-1042?")
        assert "shipped" in answer.text


async def test_a_stream_shows_deltas_and_errors_are_the_same_exceptions(tmp_path: Path) -> None:
    async with sessile.open(tmp_path / "chat.db") as client:
        await prepare(client)
        async with client.events.stream("shop", "first", "Hello!") as turn:
            frames = [type(frame).__name__ async for frame in turn]
        assert frames[0] == "InputMessageEvent"
        assert frames.count("StreamingAgentOutput") > 1
        assert frames[-1] == "StreamEnd"
        with pytest.raises(NotFound) as caught:
            await client.sessions.get("shop", "nowhere")
        assert caught.value.status == 404
        assert caught.value.request_id


async def test_leaving_leaves_running_turns_to_the_next_one(tmp_path: Path) -> None:
    async with Upstream() as upstream:
        models = {"slow": {"provider": "openai_compatible", "model": "m", "base_url": upstream.base_url}}
        upstream.add(WaitFor(asyncio.Event()))
        async with sessile.open(tmp_path / "chat.db", models=models, drain_seconds=0) as client:
            await prepare(client, model={"name": "slow"})
            turn = client.events.stream("shop", "first", "Hello!")
            await turn.__aenter__()
        upstream.reset()
        upstream.add(say("In full."))
        async with sessile.open(tmp_path / "chat.db", models=models) as client:
            ended = await client.turns.wait("shop", "first", turn.turn_id)
            assert (ended.stop_reason, ended.error) == ("end_turn", None)


async def test_a_caller_that_gives_up_stops_no_turn(tmp_path: Path) -> None:
    async with sessile.open(tmp_path / "chat.db") as client:
        await prepare(client)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await client.events.send("shop", "first", "Hello!")
        (begun,) = [event async for event in client.events.list("shop", "first", types=["input_message"])]
        turn = await client.turns.wait("shop", "first", begun.turn_id)
        assert turn.stop_reason == "end_turn"


async def test_a_file_that_is_open_is_refused(tmp_path: Path) -> None:
    file, link = tmp_path / "chat.db", tmp_path / "link.db"
    link.symlink_to(file)
    async with sessile.open(file), sessile.open(tmp_path / "other.db"):
        for name in (file, link):
            with pytest.raises(DatabaseInUse, match=r"chat\.db is in use by the process \d+"):
                await sessile.open(name).__aenter__()
    async with sessile.open(link):
        pass


async def test_the_file_of_a_running_server_is_refused_and_the_other_way_round(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path)
    with server:
        with pytest.raises(DatabaseInUse, match=f"in use by the process {server.process.pid}"):
            await sessile.open(server.data / "sessile.db").__aenter__()
        server.terminate()
    async with sessile.open(server.data / "sessile.db"):
        with pytest.raises(RuntimeError, match="is in use by the process"):
            await asyncio.to_thread(server.start)


def test_a_lock_survives_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chat.db"
    with owned(file):
        pass
    with owned(file):
        assert (tmp_path / "chat.db.lock").read_text().strip().isdigit()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"database": ":memory:"}, "file in a folder that exists"),
        ({"database": "missing/chat.db"}, "file in a folder that exists"),
        ({"colour": "red"}, "colour"),
        ({"max_model_calls": 0}, "max_model_calls"),
        ({"tools": [lookup_order, lookup_order]}, "name of its own"),
        ({"tools": ["lookup_order"]}, "name of its own"),
        ({"config": "missing.toml"}, "missing.toml"),
        ({"default_model": "nonsense"}, "nonsense"),
    ],
)
async def test_what_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    database = settings.pop("database", "chat.db")
    with pytest.raises(ConfigError, match=reason):
        async with sessile.open(database, **settings):
            pass


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "chat.db").write_text("Dear diary, " * 500)
    with pytest.raises(StorageUnavailable):
        await sessile.open(tmp_path / "chat.db").__aenter__()


async def test_the_folder_it_runs_in_does_not_configure_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sessile.toml").write_text('[tools.broken]\nfunction = "nowhere:nothing"\n')
    async with sessile.open("chat.db"):
        pass
    with pytest.raises(ConfigError, match="nowhere"):
        await sessile.open("chat.db", config="sessile.toml").__aenter__()


async def test_it_prints_nothing_and_logs_through_the_standard_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    structlog.reset_defaults()  # Another test of this process may have looked at the log: a program has not.
    with caplog.at_level(logging.INFO, "sessile"):
        async with sessile.open(tmp_path / "chat.db") as client:
            await prepare(client)
            await client.events.send("shop", "first", "Hello!")
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == {"sessile.http"}
