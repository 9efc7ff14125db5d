"""The synchronous client in the places where people use it: threads, notebooks, Ctrl-C, and programs that just end."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import sessile
from acceptance.stage import WAIT_SECONDS
from sessile.client import Client, event_type
from sessile.testing.server import ServerProcess
from sessile.wire.events import AgentOutputEvent

pytestmark = pytest.mark.acceptance

SLOW: Any = {"name": "demo", "parameters": {"word_delay": 0.2}}
STEADY: Any = {"name": "demo", "parameters": {"word_delay": 0.04}}
QUICK: Any = {"name": "demo", "parameters": {"word_delay": 0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        with Client(server.url, server.key) as client:
            client.agents.create(key="quick", name="Quick", model=QUICK)
            client.agents.create(key="steady", name="Steady", model=STEADY)
            client.agents.create(key="slow", name="Slow", model=SLOW)
        yield server
        assert server.terminate() == 0
        assert "Traceback" not in server.stderr


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.url, server.key) as client:
        yield client


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def eventually(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_thread_lives_as_long_as_the_client(server: ServerProcess) -> None:
    client = Client(server.url, server.key)
    assert "sessile-client" not in threads()
    assert client.health()
    assert "sessile-client" in threads()
    client.close()
    client.close()
    assert "sessile-client" not in threads()
    with pytest.raises(RuntimeError, match="The client is closed"):
        client.health()
    Client(server.url).close()


def test_threads_may_share_a_client(client: Client) -> None:
    def talk(number: int) -> str:
        session = client.sessions.create("quick")
        with client.events.stream("quick", session.key, f"Number {number}") as turn:
            text = "".join(turn.text())
        answer = client.events.send("quick", session.key, "Thanks")
        assert answer.stop_reason == "end_turn"
        assert len(list(client.events.list("quick", session.key, limit=2))) > 3
        return text

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(talk, range(64)))
    assert all(f"Number {number}" in text for number, text in enumerate(texts))


async def test_inside_of_a_running_loop(client: Client) -> None:
    session = client.sessions.create("quick")
    assert client.events.send("quick", session.key, "Hello").text
    with client.events.stream("quick", session.key, "Hello") as turn:
        assert "".join(turn.text())
    assert asyncio.get_running_loop().is_running()


def interrupt_when(ready: Callable[[], bool]) -> threading.Thread:
    """Press Ctrl-C once something is the case."""

    def press() -> None:
        eventually(ready)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_ctrl_c_ends_a_call_and_the_client_stays_usable(client: Client) -> None:
    session = client.sessions.create("slow")
    with Client(client._behind._transport.url, client._behind._caller._headers["x-api-key"]) as other:  # type: ignore[attr-defined]
        pressing = interrupt_when(lambda: other.sessions.get("slow", session.key).status == "running")
        with pytest.raises(KeyboardInterrupt):
            client.events.send("slow", session.key, "Hello")
        pressing.join()
    assert client._portal.call(pending()) == 0
    assert client.health()
    (asked, *_) = client.events.list("slow", session.key)
    assert event_type(asked) == "input_message"
    client.sessions.delete("slow", session.key)


def test_ctrl_c_ends_a_stream_and_the_client_stays_usable(client: Client) -> None:
    session = client.sessions.create("steady")
    texts: list[str] = []
    turn = client.events.stream("steady", session.key, "Hello")

    def read() -> None:
        with turn:
            for text in turn.text():
                texts.append(text)

    pressing = interrupt_when(lambda: len(texts) > 2)
    with pytest.raises(KeyboardInterrupt):
        read()
    pressing.join()
    assert client._portal.call(pending()) == 0
    assert client.turns.wait("steady", session.key, turn.turn_id).stop_reason == "end_turn"
    (output,) = client.events.list("steady", session.key, types=["agent_output"])
    assert isinstance(output, AgentOutputEvent)
    assert output.content.startswith("".join(texts))


def test_ctrl_c_ends_waiting_for_a_turn(client: Client) -> None:
    session = client.sessions.create("slow")
    running = client.events.send("slow", session.key, "Hello", timeout=0.1)
    assert running.status == "running"
    started = threading.Event()
    pressing = interrupt_when(started.is_set)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        started.set()
        client.turns.wait("slow", session.key, running.turn_id)
    pressing.join()
    assert client.turns.get("slow", session.key, running.turn_id).id == running.turn_id
    client.sessions.delete("slow", session.key)


async def pending() -> int:
    """How many other tasks the loop of a client has, once what was cancelled has ended."""
    for _ in range(100):
        await asyncio.sleep(0)
    names = [task.get_coro().__qualname__ for task in asyncio.all_tasks()]  # type: ignore[union-attr]
    return len([name for name in names if name.startswith(("Async", "Caller"))])


def test_closing_ends_the_calls_of_other_threads(server: ServerProcess) -> None:
    client = Client(server.url, server.key)
    session = client.sessions.create("slow")
    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(client.events.send, "slow", session.key, "Hello")
        with Client(server.url, server.key) as other:
            eventually(lambda: other.sessions.get("slow", session.key).status == "running")
        client.close()
        with pytest.raises(RuntimeError, match="closed while this call was running"):
            calling.result(WAIT_SECONDS)


def test_a_forgotten_client_ends_its_thread_and_says_so_to_those_who_ask(server: ServerProcess) -> None:
    client = Client(server.url, server.key)
    assert client.health()
    held = [client]
    del client
    with pytest.warns(ResourceWarning, match="not closed"):
        held.clear()
    eventually(lambda: "sessile-client" not in threads())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(server.url, server.key)
        gc.collect()


def test_a_stream_that_is_forgotten_half_way(client: Client) -> None:
    session = client.sessions.create("steady")
    for _text in client.events.stream("steady", session.key, "Hello").text():
        break
    gc.collect()
    acquired = client._behind._transport._session.connector._acquired  # type: ignore[attr-defined]
    eventually(lambda: not acquired)
    client.sessions.delete("steady", session.key)


SCRIPTS = {
    "plain": "client = sessile.Client(); client.health()",
    "plain, half a stream": """
client = sessile.Client()
session = client.sessions.create("steady")
stream = iter(client.events.stream("steady", session.key, "Hello").text())
assert next(stream)
""",
    "plain, in a thread": """
client = sessile.Client()
session = client.sessions.create("slow")
threading.Thread(target=client.events.send, args=("slow", session.key, "Hello"), daemon=True).start()
while client.sessions.get("slow", session.key).status != "running":
    pass
""",
    "plain, never used": "client = sessile.Client()",
    "asyncio": """
async def main():
    global client
    client = sessile.AsyncClient()
    await client.health()
asyncio.run(main())
""",
    "asyncio, forgotten in the loop": """
async def main():
    client = sessile.AsyncClient()
    await client.health()
    del client
    gc.collect()
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    "asyncio, half a stream": """
async def main():
    global client, stream
    client = sessile.AsyncClient()
    session = await client.sessions.create("slow")
    stream = client.events.stream("slow", session.key, "Hello")
    assert await anext(stream)
asyncio.run(main())
""",
    "asyncio, half a stream in a frame": """
async def main():
    client = sessile.AsyncClient()
    session = await client.sessions.create("steady")
    async for text in client.events.stream("steady", session.key, "Hello").text():
        break
asyncio.run(main())
""",
    "asyncio, a second loop": """
client = sessile.AsyncClient()
asyncio.run(client.health())
try:
    asyncio.run(client.health())
except RuntimeError as error:
    assert "another event loop" in str(error)
""",
    "asyncio, never used": "client = sessile.AsyncClient()",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_program_that_just_ends_makes_no_noise(server: ServerProcess, name: str) -> None:
    code = f"import asyncio, gc, threading\nimport sessile\n{SCRIPTS[name]}\nprint('done')"
    env = {**os.environ, "SESSILE_URL": server.url, "SESSILE_API_KEY": server.key}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("done\n", "", 0)


def test_ctrl_c_in_a_program(server: ServerProcess) -> None:
    code = """
import sessile
client = sessile.Client()
session = client.sessions.create("steady")
print("ready", flush=True)
try:
    with client.events.stream("steady", session.key, "Hello") as turn:
        for text in turn.text():
            print("text", flush=True)
except KeyboardInterrupt:
    print("interrupted", client.health())
"""
    env = {**os.environ, "SESSILE_URL": server.url, "SESSILE_API_KEY": server.key}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        while program.stdout.readline() != "text\n":
            assert program.poll() is None
        program.send_signal(signal.SIGINT)
        rest = program.stdout.read()
        assert rest.endswith("interrupted True\n")
        assert program.stderr.read() == ""
    assert program.returncode == 0


def test_a_refusal_is_the_same_exception(client: Client) -> None:
    with pytest.raises(sessile.NotFound) as refused:
        client.agents.get("nobody")
    assert refused.value.id == "nobody"
    with pytest.raises(sessile.NotFound):
        list(client.sessions.list("nobody"))
    with pytest.raises(sessile.NotFound), client.events.stream("quick", "none", "Hello"):
        pass
    assert "sk-" not in repr(client)
    assert repr(client).startswith("Client(HttpTransport('http://127.0.0.1:")
