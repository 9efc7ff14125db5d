"""The check of a session's log, over a real server: a log as it was written holds, and a damaged one is told where."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import sessile
from sessile.testing.server import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    (tmp_path / "shop.py").write_text(
        'def lookup_order(order_number: str) -> dict:\n    """Look up an order."""\n    return {"status": "shipped"}\n'
    )
    with ServerProcess(tmp_path, '[tools.lookup_order]\nfunction = "shop:lookup_order"\n') as made:
        yield made


def talk(client: sessile.Client, session: str, turns: int) -> None:
    client.sessions.create("shop", key=session)
    for _ in range(turns):
        client.events.send("shop", session, "Where is my order A-1042?")


def test_a_log_holds_and_a_damaged_one_is_told_where(server: ServerProcess) -> None:
    with sessile.Client(server.url, server.key) as client:
        client.agents.create(
            key="shop", name="Shop", model="demo", tool_configurations={"lookup_order": {"type": "lambda"}}
        )
        talk(client, "whole", 2)
        talk(client, "damaged", 1)
        whole = client.sessions.check("shop", "whole")
        assert (whole.ok, whole.violations) == (True, [])
        assert whole.events == 2 * client.sessions.check("shop", "damaged").events
        (output,) = client.events.list("shop", "damaged", types=["tool_output"])
        server.terminate()
        with sqlite3.connect(server.data / "sessile.db") as db:
            session = "(SELECT id FROM sessions WHERE key = 'damaged')"
            db.execute(f"DELETE FROM events WHERE session_id = {session} AND sequence = ?", [output.sequence])
        db.close()
    server.start()
    with sessile.Client(server.url, server.key) as client:
        damaged = client.sessions.check("shop", "damaged")
        rules = [(violation.rule, violation.sequence) for violation in damaged.violations]
        assert not damaged.ok
        assert rules[0] == ("sequence_gap", output.sequence + 1)
        assert ("call_open_at_model_call", output.sequence + 1) in rules
        assert client.sessions.check("shop", "whole").ok
        with pytest.raises(sessile.NotFound):
            client.sessions.check("shop", "nowhere")


def test_a_session_without_events_and_a_running_one_hold(server: ServerProcess) -> None:
    with sessile.Client(server.url, server.key) as client:
        client.agents.create(key="shop", name="Shop", model="demo")
        client.sessions.create("shop", key="first")
        assert client.sessions.check("shop", "first").ok
        with client.events.stream("shop", "first", "Tell me a long story.") as turn:
            next(iter(turn))
            assert client.sessions.check("shop", "first").ok
