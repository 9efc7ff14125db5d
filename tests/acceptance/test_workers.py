"""`sessile serve --workers N`: processes that share a port, replaced when they die, drained and ended as one server."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from acceptance.cli_support import environment, run
from acceptance.stage import WAIT_SECONDS, Stage, eventually, model_config
from log_rules import problems
from processes import children, gone
from sessile.telemetry.workers import merged
from sessile.testing.postgres import PostgresServer
from sessile.testing.postgres_proxy import Cut, PostgresProxy
from sessile.testing.script import hang, say, wait_for
from sessile.testing.server import ServerProcess
from sessile.testing.upstream import Upstream

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio]


@pytest.fixture
async def stage(tmp_path: Path, new_database: str) -> AsyncIterator[Stage]:
    """A server of two workers; every request is a connection of its own."""
    async with Upstream() as upstream:
        config = "heartbeat_seconds = 600\nlease_seconds = 2\ndrain_seconds = 20\n" + model_config(upstream)
        arguments = ["--workers", "2"]
        with ServerProcess(tmp_path, config, arguments=arguments, env={"SESSILE_DATABASE": new_database}) as server:
            limits = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(
                base_url=server.url, headers=server.headers, timeout=WAIT_SECONDS, limits=limits
            ) as client:
                yield Stage(server, upstream, client)
            server.terminate()


async def ups(stage: Stage) -> set[str]:
    return await counted(stage.client)


async def test_workers_share_a_port_and_a_dead_one_is_replaced(stage: Stage) -> None:
    assert stage.server.stdout.count("Sessile is ready at") == 1
    session, go_on = await stage.conversation(), asyncio.Event()
    stage.upstream.add(wait_for(go_on), say("Still here."))
    turn = asyncio.create_task(stage.client.post(f"{session}/events", json={"content": "Hello."}))
    await stage.upstream.arrived(1)
    before = set(await asyncio.to_thread(children, stage.server.process.pid))
    assert len(before) == 2
    assert await ups(stage) == {"1", "2"}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)

    async def replaced() -> bool:
        now = set(await asyncio.to_thread(children, stage.server.process.pid))
        return len(now) == 2 and victim not in now and await ups(stage) == {"1", "2"}

    await eventually(replaced)
    stage.upstream.add(say("Taken up."))
    go_on.set()
    await asyncio.wait([turn])
    await stage.stopped(session)
    assert problems(await stage.log(session, records=True)) == []
    logged = [msgspec.json.decode(line) for line in stage.server.stderr.splitlines()]
    assert ("worker_ended", -9) in [(line["event"], line.get("code")) for line in logged]
    assert {line["worker"] for line in logged} <= {1, 2}


async def test_a_signal_drains_all_workers_and_they_end_as_one(stage: Stage) -> None:
    session, go_on = await stage.conversation(), asyncio.Event()
    stage.upstream.add(wait_for(go_on), say("The whole answer."))
    turn = asyncio.create_task(stage.post(session))
    await stage.upstream.arrived(1)
    workers = await asyncio.to_thread(children, stage.server.process.pid)
    stage.server.process.send_signal(signal.SIGINT)
    await asyncio.sleep(0.2)
    go_on.set()
    assert (await turn)["events"][-1]["content"] == "The whole answer."
    assert await asyncio.to_thread(stage.server.process.wait, WAIT_SECONDS) == 0
    for worker in workers:
        await gone(worker)


async def test_while_workers_drain_new_clients_are_refused_at_once(stage: Stage) -> None:
    session, go_on = await stage.conversation(), asyncio.Event()
    stage.upstream.add(wait_for(go_on), say("The whole answer."))
    turn = asyncio.create_task(stage.post(session))
    await stage.upstream.arrived(1)
    stage.server.process.send_signal(signal.SIGTERM)

    async def refused() -> bool:
        try:
            await stage.client.get("/healthz", timeout=0.5)
        except httpx.ConnectError:
            return True
        except httpx.TransportError:
            return False  # it was let in, and nobody takes it
        return False

    await eventually(refused)
    assert stage.server.process.poll() is None
    go_on.set()
    assert (await turn)["events"][-1]["content"] == "The whole answer."
    assert await asyncio.to_thread(stage.server.process.wait, WAIT_SECONDS) == 0


@pytest.mark.parametrize("how", ["silence", "reset"])
async def test_all_workers_are_counted_while_the_database_is_away(
    tmp_path: Path, postgres: PostgresServer, new_database: str, how: Cut
) -> None:
    async with PostgresProxy(postgres.port).running() as proxy:
        server = ServerProcess(
            tmp_path,
            "drain_seconds = 0\n",
            arguments=["--workers", "3"],
            env={"SESSILE_DATABASE": proxy.url(new_database)},
        )
        with contextlib.ExitStack() as ended:
            ended.push(server)
            await asyncio.to_thread(server.start)
            async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_SECONDS) as client:
                proxy.cut(how)
                page = (await client.get("/metrics")).text
                for name, up in (("sessile_worker_up", "1"), ("sessile_store_up", "0.0")):
                    assert re.findall(rf'^{name}{{worker="(\d)"}} {up}$', page, re.MULTILINE) == ["1", "2", "3"], name
                proxy.mend()
                if how == "reset":
                    await eventually(lambda: stores_are_up(client))
            await asyncio.to_thread(server.kill)  # the proxy must run meanwhile


async def stores_are_up(client: httpx.AsyncClient) -> bool:
    page = (await client.get("/metrics")).text
    return len(re.findall("^sessile_store_up.* 1.0$", page, re.MULTILINE)) == 3


async def test_a_second_signal_ends_all_at_once(stage: Stage) -> None:
    session = await stage.conversation()
    stage.upstream.add(hang())
    turn = asyncio.create_task(stage.client.post(f"{session}/events", json={"content": "Hello."}))
    await stage.upstream.arrived(1)
    workers = await asyncio.to_thread(children, stage.server.process.pid)
    stage.server.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.2)
    assert stage.server.process.poll() is None
    stage.server.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):  # the drain alone would take 20
        assert await asyncio.to_thread(stage.server.process.wait, WAIT_SECONDS) == 0
        await asyncio.wait([turn])
    for worker in workers:
        await gone(worker)


async def test_workers_end_with_whoever_started_them(stage: Stage) -> None:
    workers = await asyncio.to_thread(children, stage.server.process.pid)
    stage.server.kill()
    for worker in workers:
        await gone(worker)


async def test_a_temporary_folder_that_is_long_or_tidied_up_harms_no_worker(tmp_path: Path, new_database: str) -> None:
    long = tmp_path / "x".ljust(100, "x")
    for folder in (long, short := Path(tempfile.mkdtemp())):
        os.makedirs(folder, exist_ok=True)
        env = {"SESSILE_DATABASE": new_database, "TMPDIR": str(folder)}
        with ServerProcess(tmp_path, arguments=["--workers", "2"], env=env) as server:
            async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_SECONDS) as client:
                assert await counted(client) == {"1", "2"}
                for meeting in os.listdir(short):
                    shutil.rmtree(short / meeting)
                    assert len(await counted(client)) == 1, "the other one cannot be asked any more"
                    os.kill(children(server.process.pid)[0], signal.SIGKILL)
                    await eventually(lambda: has_replaced(server))
            server.terminate()
    os.rmdir(short)


async def test_a_worker_that_cannot_be_started_is_tried_again_and_the_others_go_on(
    tmp_path: Path, new_database: str
) -> None:
    python = tmp_path / "python"  # a new version is being installed: for a while there is none
    os.symlink(sys.executable, python)
    server = ServerProcess(
        tmp_path,
        arguments=["--workers", "2"],
        env={"SESSILE_DATABASE": new_database, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        command=(str(python), "-m", "sessile"),
    )
    with server:
        os.unlink(python)
        os.kill(children(server.process.pid)[0], signal.SIGKILL)

        async def tried() -> bool:
            return server.stderr.count("worker_not_started") >= 2

        await eventually(tried)
        async with httpx.AsyncClient(base_url=server.url, timeout=WAIT_SECONDS) as client:
            assert (await client.get("/readyz")).status_code == 200
        os.symlink(sys.executable, python)
        await eventually(lambda: has_replaced(server))
        assert server.terminate() == 0


async def counted(client: httpx.AsyncClient) -> set[str]:
    return set(re.findall(r"sessile_worker_up\{worker=\"(\d)\"\} 1", (await client.get("/metrics")).text))


async def has_replaced(server: ServerProcess) -> bool:
    return "worker_replaced" in server.stderr


async def test_a_database_file_is_refused(tmp_path: Path) -> None:
    env = environment("", SESSILE_DATABASE=None)
    refused = await run(env, "serve", "--workers", "2", "--port", "0", "--data", str(tmp_path / "data"))
    assert (refused.code, refused.stdout) == (2, "")
    assert refused.stderr == (
        "sessile: several workers need a PostgreSQL database: --database postgresql://… A database file belongs to one "
        "process; use --workers 1, or several servers with a database of their own.\n"
    )
    assert not (tmp_path / "data").exists()


async def test_a_start_that_fails_is_told_once(tmp_path: Path) -> None:
    url = "postgresql://127.0.0.1:1/nowhere"
    env = environment("", SESSILE_DATABASE=url)
    failed = await run(env, "serve", "--workers", "3", "--port", "0", "--data", str(tmp_path / "data"))
    assert failed.code == 1
    assert failed.stderr.count("cannot be opened") == 1


async def test_pages_of_workers_become_one() -> None:
    page = b'# HELP a_total An a.\n# TYPE a_total counter\na_total 1.0\n# HELP b B.\n# TYPE b gauge\nb{x="{1 }"} 2.0\n'
    assert merged({1: page, 2: page, 3: None}).decode().splitlines() == [
        "# HELP a_total An a.",
        "# TYPE a_total counter",
        'a_total{worker="1"} 1.0',
        'a_total{worker="2"} 1.0',
        "# HELP b B.",
        "# TYPE b gauge",
        'b{worker="1",x="{1 }"} 2.0',
        'b{worker="2",x="{1 }"} 2.0',
        "# HELP sessile_worker_up Whether a worker has answered for this page.",
        "# TYPE sessile_worker_up gauge",
        'sessile_worker_up{worker="1"} 1',
        'sessile_worker_up{worker="2"} 1',
        'sessile_worker_up{worker="3"} 0',
    ]
