"""A server that is killed while its model summarises: the session is as it was, and the next start compacts it."""

import asyncio
from pathlib import Path

import pytest

import sessile
from acceptance.stage import model_config
from sessile.testing.script import hang, say, usage
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream
from sessile.wire.events import CompactionEvent

pytestmark = pytest.mark.acceptance


@pytest.mark.parametrize("ordered", [True, False])
async def test_killed_in_the_middle_of_a_summary(tmp_path: Path, ordered: bool) -> None:
    async with Upstream() as upstream:
        settings = model_config(upstream) + "context_window = 1000\n"
        with ServerProcess(tmp_path, settings) as server:
            async with sessile.AsyncClient(server.url, server.key) as client:
                await client.agents.create(key="a", name="A", model="scripted")
                await client.sessions.create("a", key="s")
                for text in ("One.", "Two."):
                    upstream.add(say("Yes."), usage(850, 10) if text == "Two." else usage(1, 1))
                    await client.events.send("a", "s", text)
                upstream.reset()
                upstream.add(say("Half a summ"), hang())
                call = client.events.compact("a", "s") if ordered else client.events.send("a", "s", "Three.")
                turn = asyncio.create_task(call)
                await upstream.arrived(1)
                server.kill()
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)
            upstream.reset()
            upstream.add(say("Whole.")).add(say("Fine."))
            server.start()
            async with sessile.AsyncClient(server.url, server.key) as client:
                records = [event async for event in client.events.list("a", "s", records=True, types=["turn_started"])]
                await client.turns.wait("a", "s", records[-1].turn_id)  # type: ignore[union-attr]
                events = [event async for event in client.events.list("a", "s", include_hidden=True)]
                (summary,) = [event for event in events if isinstance(event, CompactionEvent)]
                assert summary.summary_text == "Whole."
                assert [event.hidden for event in events][:5] == [True, True, not ordered, not ordered, False]  # type: ignore[union-attr]
                assert (await client.sessions.check("a", "s")).ok
                assert len(upstream.requests) == (1 if ordered else 2)
