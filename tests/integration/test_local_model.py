"""The offline model with its real process: what it streams, and what becomes of it when something ends."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from integration.test_turns import OWNER, Harness, last
from processes import WAIT_SECONDS, children, gone, runs
from sessile.api import interrupt_answer
from sessile.clock import SystemClock
from sessile.config import ModelConfig
from sessile.domain.messages import UserMessage
from sessile.domain.tokens import ERROR, estimate
from sessile.models import local
from sessile.models.local import LocalModel
from sessile.models.local_process import LocalProcess, Running
from sessile.models.openai_chat import HttpSession
from sessile.ports import ModelChunk, ModelFault, ModelRequest, TextDelta
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.model_contract import GREETING, QUESTION, answer, calls_of, collect, text_of, usages_of

pytestmark = pytest.mark.skipif(not local.installed(), reason=f"the offline model is not installed: {local.INSTALL}")

TABLE = ModelConfig(provider="local")
WINDOW = 8192
ENDLESS = ModelRequest(
    messages=[UserMessage("Tell me a story.")], tools=[], parameters={"ignore_eos": True, "max_tokens": WINDOW - 100}
)
"""An answer that lasts much longer than any wait of these tests."""
PARENT = """
import asyncio
from sessile import logs
from sessile.api import interrupt_answer
from sessile.clock import SystemClock
from sessile.config import ModelConfig
from sessile.models.local import LocalModels

logs.configure("error")

async def main():
    provider = LocalModels()
    await provider.model("local", ModelConfig(provider="local")).warm_up()
    print("ready", flush=True)
    await asyncio.Event().wait()
    await provider.close()

asyncio.run(main())
"""


class World:
    """A model with one slot and its process."""

    def __init__(self) -> None:
        self.http = HttpSession(reuse=False)
        file = local.file_of_wheel()
        assert file is not None
        self.process = LocalProcess(file, WINDOW, 1, WAIT_SECONDS)
        self.model = LocalModel("local", self.process, self.http, WINDOW, WAIT_SECONDS, {"max_tokens": 64})

    async def child(self) -> Running:
        return await self.process.running()

    async def tokens(self, text: str) -> int:
        """How many tokens llama.cpp makes of a text."""
        ready = (await self.child()).ready
        url = f"{ready.base_url.removesuffix('/v1')}/tokenize"
        headers = {"Authorization": f"Bearer {ready.key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, headers=headers, json={"content": text}) as got,
        ):
            return len((await got.json())["tokens"])

    async def slot(self) -> dict[str, Any]:
        """What llama.cpp says of its only slot."""
        ready = (await self.child()).ready
        url = f"{ready.base_url.removesuffix('/v1')}/slots"
        headers = {"Authorization": f"Bearer {ready.key}"}
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
            (slot,) = await response.json()
            found: dict[str, Any] = slot
            return found

    async def slot_is(self, busy: bool) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while (await self.slot())["is_processing"] is not busy:  # noqa: ASYNC110 - llama.cpp can only be asked
                await asyncio.sleep(0.02)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.process.close()
    await world.http.close()
    assert children(os.getpid()) == []


async def read(world: World, into: list[ModelChunk], started: asyncio.Event) -> None:
    """Read the endless answer."""
    async with aclosing(world.model.stream(ENDLESS)) as chunks:
        async for chunk in chunks:
            into.append(chunk)
            started.set()


async def test_it_streams_text_and_counts_tokens(world: World) -> None:
    chunks = await answer(world.model, GREETING)
    texts = [chunk.text for chunk in chunks if isinstance(chunk, TextDelta)]
    (usage,) = usages_of(chunks)
    assert len(texts) > 1
    assert "".join(texts).strip()
    assert usage.input_tokens > 0
    assert usage.output_tokens >= len(texts)


async def test_tools_on_offer_do_no_harm(world: World) -> None:
    chunks = await answer(world.model, QUESTION)
    assert text_of(chunks).strip()
    assert calls_of(chunks) == []


async def test_the_window_is_what_a_call_really_has(world: World) -> None:
    asked = LocalModel("local", world.process, world.http, 2 * WINDOW, WAIT_SECONDS, {})
    assert asked.context_window == 2 * WINDOW
    await asked.warm_up()
    assert asked.context_window == (await world.slot())["n_ctx"] == WINDOW


async def test_an_input_beyond_the_window_is_rejected(world: World) -> None:
    request = ModelRequest(messages=[UserMessage("word " * 2 * WINDOW)], tools=[], parameters={})
    with pytest.raises(ModelFault) as caught:
        await answer(world.model, request)
    assert (caught.value.code, caught.value.retryable) == ("model_context_exceeded", False)


async def test_callers_at_the_same_time_share_one_process(world: World) -> None:
    started = await asyncio.gather(*(world.child() for _ in range(5)))
    assert len({running.process.pid for running in started}) == 1
    assert len(children(os.getpid())) == 1


async def test_nobody_answers_without_the_key(world: World) -> None:
    url = (await world.child()).ready.base_url
    async with aiohttp.ClientSession() as session, session.post(f"{url}/chat/completions", json={}) as response:
        assert response.status == 401


async def test_a_process_that_dies_fails_the_call_and_the_next_call_gets_another(world: World) -> None:
    chunks: list[ModelChunk] = []
    started = asyncio.Event()
    reading = asyncio.create_task(read(world, chunks, started))
    async with asyncio.timeout(WAIT_SECONDS):
        await started.wait()
    first = (await world.child()).process.pid
    os.kill(first, signal.SIGKILL)
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(ModelFault) as caught:
            await reading
        assert text_of(await answer(world.model, GREETING)).strip()
    assert (caught.value.code, caught.value.retryable) == ("model_unavailable", True)
    assert text_of(chunks)
    assert (await world.child()).process.pid != first
    assert [log["how"] for log in logs if log["event"] == "local_model_ended"] == ["signal SIGKILL"]


async def test_a_process_that_died_between_calls_is_replaced(world: World) -> None:
    first = await world.child()
    first.process.kill()
    await first.process.wait()
    assert text_of(await answer(world.model, GREETING)).strip()
    assert (await world.child()).process.pid != first.process.pid


async def test_an_interrupted_turn_frees_its_slot(world: World, tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    await store.create_tenant("default", "Default")
    harness = Harness(store, world.model)  # type: ignore[arg-type]
    await harness.create(model={"name": "local", "parameters": ENDLESS.parameters})
    tail = await harness.post("Tell me a story.")
    await world.slot_is(busy=True)
    found, waiting = await harness.inputs.interrupt(
        OWNER, "a", "s", lambda found: harness.hub.follow(found.session.id, found.session.last_sequence)
    )
    assert b'"stop_reason":"interrupted"' in await interrupt_answer.whole(found, waiting, WAIT_SECONDS)
    await world.slot_is(busy=False)
    assert last(await harness.until_ended(tail)).stop_reason == "interrupted"
    await harness.worker.drain(0, 5)
    await store.close()


@pytest.mark.parametrize("how", ["cancel", "close"])
async def test_a_call_that_nobody_reads_any_more_frees_its_slot(world: World, how: str) -> None:
    if how == "cancel":
        started = asyncio.Event()
        reading = asyncio.create_task(read(world, [], started))
        async with asyncio.timeout(WAIT_SECONDS):
            await started.wait()
        await world.slot_is(busy=True)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    else:
        chunks = world.model.stream(ENDLESS)
        await anext(chunks)
        await world.slot_is(busy=True)
        await chunks.aclose()
    await world.slot_is(busy=False)
    assert text_of(await answer(world.model, GREETING)).strip()


async def test_signals_to_the_group_leave_it_to_the_server(world: World) -> None:
    running = await world.child()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        running.process.send_signal(number)
    assert text_of(await answer(world.model, GREETING)).strip()
    assert running.process.returncode is None


async def test_closing_ends_a_running_call_and_starts_nothing_again(world: World) -> None:
    started = asyncio.Event()
    reading = asyncio.create_task(read(world, [], started))
    async with asyncio.timeout(WAIT_SECONDS):
        await started.wait()
    with structlog.testing.capture_logs() as logs:
        await world.process.close()
    assert children(os.getpid()) == []
    with pytest.raises(ModelFault):
        await reading
    with pytest.raises(ModelFault, match="stopping"):
        await answer(world.model, GREETING)
    assert [log for log in logs if log["event"] == "local_model_ended"] == []


async def test_closing_while_it_starts(world: World) -> None:
    starting = asyncio.create_task(world.model.warm_up())
    await asyncio.sleep(0)
    await world.process.close()
    assert children(os.getpid()) == []
    with pytest.raises(ModelFault):
        await starting


async def test_closing_kills_a_process_that_does_not_listen(world: World) -> None:
    running = await world.child()
    running.process.send_signal(signal.SIGSTOP)
    await world.process.close()
    assert running.process.returncode == -signal.SIGKILL


async def test_a_caller_that_gives_up_does_not_stop_the_start(world: World) -> None:
    starting = asyncio.create_task(world.model.warm_up())
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await world.model.warm_up()
    assert len(children(os.getpid())) == 1


async def test_it_does_not_outlive_a_server_that_was_killed() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(WAIT_SECONDS):
            assert await parent.stdout.readline() == b"ready\n"
        (child,) = children(parent.pid)
        assert runs(child)
    finally:
        parent.kill()
        await parent.wait()
    await gone(child)


async def test_a_file_that_is_no_model_is_tried_less_and_less_often(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"This is no model.")
    provider = local.LocalModels()
    model = provider.model("broken", ModelConfig(provider="local", model=str(file)))
    faults = []
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with pytest.raises(ModelFault) as caught:
                await answer(model, GREETING)
            faults.append(caught.value)
        await provider.close()
    assert {(fault.code, fault.retryable) for fault in faults} == {("model_unavailable", True)}
    assert str(tmp_path) not in "".join(fault.message for fault in faults)
    assert [fault.retry_after is not None for fault in faults] == [False, False, True]
    ended = [log for log in logs if log["event"] == "local_model_ended"]
    assert len(ended) == 2
    assert any("invalid magic" in line for line in ended[0]["said"])


async def test_it_runs_on_the_event_loop_of_any_thread() -> None:
    async def ask() -> str:
        provider = local.LocalModels()
        chunks: list[ModelChunk] = []
        await collect(provider.model("local", TABLE), GREETING, chunks)
        await provider.close()
        return text_of(chunks)

    assert (await asyncio.to_thread(asyncio.run, ask())).strip()
    assert children(os.getpid()) == []


ROOT = Path(__file__).parents[2]
TEXTS = {
    "prose": (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")[2000:4000],
    "code": (ROOT / "src" / "sessile" / "domain" / "context.py").read_text(encoding="utf-8")[2000:4000],
    "json": '{"id":"A-1042","status":"shipped","items":[{"sku":"kettle","count":2}]},' * 25,
}


@pytest.mark.parametrize("kind", TEXTS)
async def test_the_error_that_the_estimate_of_tokens_states(world: World, kind: str) -> None:
    found = await world.tokens(TEXTS[kind])
    assert found > 300
    assert 1 / ERROR <= estimate(TEXTS[kind]) / found <= ERROR
