"""`python -m chaos`: faults of real servers under load, and what came of it."""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx

from chaos.load import AGENT, Acknowledged, Follower, Talker
from chaos.model import TOOLS, Model
from chaos.oracle import Verdict, judge
from chaos.stand import FAULTS, LEASE_SECONDS, PHASES, Node, Stand
from sessile.testing.postgres import postgres_server
from sessile.testing.postgres_proxy import PostgresProxy
from sessile.testing.server import ServerProcess

_CALM_SECONDS = 0.6
_OF_EACH = 10
"""How often each fault happens in a full run."""
_AT_ONCE = 2
"""Faults that happen at the same time, when there are several servers: one of three is well, if its database is."""


def _config(url: str, settings: str) -> str:
    return (
        f"{settings}\n[limits]\nrequests_per_second = 0\n"
        '[models.stub]\nprovider = "openai_compatible"\nmodel = "stub"\n'
        f'base_url = "{url}/v1"\n'
        '[tools.once]\nfunction = "chaos_tools:once"\n'
        '[tools.again]\nfunction = "chaos_tools:again"\nidempotent = true\n'
    )


def _server(folder: Path, name: str, ear: str, settings: str = "", database: str | None = None) -> ServerProcess:
    """A server that is not started yet, with its model and its tools' ear under its own name."""
    own = folder / name
    own.mkdir()
    (own / "chaos_tools.py").write_text(TOOLS)
    url = f"{ear}/{name}"
    return ServerProcess(own, _config(url, settings), env={"CHAOS_EAR": url, "SESSILE_DATABASE": database})


@asynccontextmanager
async def _stand(folder: Path, ear: str, count: int, chance: random.Random) -> AsyncIterator[Stand]:
    """One server on SQLite, or several on one PostgreSQL, each with its own way there."""
    if count == 1:
        yield Stand([Node("alone", _server(folder, "alone", ear), None)], None, chance)
        return
    settings = f"lease_seconds = {LEASE_SECONDS}\nheartbeat_seconds = {LEASE_SECONDS / 2}"
    async with AsyncExitStack() as opened:
        database = opened.enter_context(postgres_server())
        nodes = []
        for number in range(count):
            way = await opened.enter_async_context(PostgresProxy(database.port).running())
            name = f"node{number}"
            nodes.append(Node(name, _server(folder, name, ear, settings, way.url(database.url())), way))
        yield Stand(nodes, database, chance)


async def _prepare(stand: Stand, sessions: list[str]) -> None:
    tools = {name: {"type": "lambda"} for name in ("once", "again")}
    agent = {"key": AGENT, "name": "Chaos", "model": {"name": "stub"}, "tool_configurations": tools}
    node = await stand.one()
    async with httpx.AsyncClient(base_url=node.url, headers=node.headers) as client:
        (await client.post("/v2/agents", json=agent)).raise_for_status()
        for session in sessions:
            (await client.post(f"/v2/agents/{AGENT}/sessions", json={"key": session})).raise_for_status()


async def _hurt(stand: Stand, faults: list[str], deadline: float) -> None:
    """One fault after the other, until there were enough or the time is over."""
    while faults and time.monotonic() < deadline:
        await asyncio.sleep(stand.chance.random() * _CALM_SECONDS)
        if faults:
            await stand.strike(faults.pop())


def _faults(stand: Stand, count: int | None) -> list[str]:
    """What is to happen, each kind in turn, in an order that changes from turn to turn."""
    kinds = PHASES if len(stand.nodes) == 1 else FAULTS
    count = _OF_EACH * len(kinds) if count is None else count
    faults: list[str] = []
    while len(faults) < count:
        faults += stand.chance.sample(kinds, len(kinds))
    return faults[:count]


async def run(
    folder: Path, count: int, faults: int | None, seconds: float, talkers: int, seed: int
) -> tuple[Verdict, Stand, Acknowledged]:
    """One whole run."""
    model, known, stop = Model(), Acknowledged(), asyncio.Event()
    ear = await model.start()
    sessions = [f"s{number}" for number in range(talkers)]
    try:
        async with _stand(folder, ear, count, random.Random(seed)) as stand:
            model.stand = stand
            try:
                await stand.start()
                await _prepare(stand, sessions)
                left = _faults(stand, faults)
                deadline = time.monotonic() + seconds
                followers = [Follower(stand, session) for session in sessions]
                following = [asyncio.create_task(follower.follow()) for follower in followers]
                async with asyncio.TaskGroup() as group:
                    for session in sessions:
                        group.create_task(Talker(stand, session, known).talk(stop))
                    at_once = _AT_ONCE if count > 1 else 1
                    await asyncio.gather(*(_hurt(stand, left, deadline) for _ in range(at_once)))
                    stop.set()
                verdict = await judge(stand, followers, known, model)
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
                return verdict, stand, known
            finally:
                await stand.end()
    finally:
        await model.end()


def _print(verdict: Verdict, stand: Stand, known: Acknowledged, seconds: float) -> None:
    print(f"inputs sent            {known.sent}")
    print(f"cut off                {known.uncertain} requests had no answer")
    print(f"repeated under a key   {known.repeated}, of which {known.elsewhere} at another server")
    print(f"inputs accepted        {verdict.accepted}")
    print(f"turns ended            {verdict.ended}")
    print(f"events in the logs     {verdict.events}")
    print(f"events followed        {verdict.followed}, over {verdict.moves} connections that broke or were left")
    print(f"inputs lost            {len(verdict.lost)}")
    print(f"inputs doubled         {len(verdict.doubled)}")
    print(f"invariants broken      {len(verdict.broken)}")
    print(f"faults                 {sum(stand.faults.values())} in {seconds:.0f} s")
    for fault in PHASES if len(stand.nodes) == 1 else FAULTS:
        print(f"  {fault:<22} {stand.faults[fault]:>3}  {'#' * stand.faults[fault]}")
    for name, found in (("lost", verdict.lost), ("doubled", verdict.doubled), ("broken", verdict.broken)):
        for problem in found[:20]:
            print(f"{name}: {problem}")
    if not verdict.good:
        for node in stand.nodes:
            print(f"--- the end of what {node.name} logged:\n{node.server.stderr[-3000:]}")


def main() -> int:
    """Run, print, and fail when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, help="servers: one on SQLite, more on one PostgreSQL")
    parser.add_argument("--faults", type=int, default=None, help=f"how many; by default {_OF_EACH} of each kind")
    parser.add_argument("--seconds", type=float, default=240, help="no fault is begun after this time")
    parser.add_argument("--talkers", type=int, default=8, help="sessions that talk at the same time")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed                   {seed}", flush=True)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the stub model is cut off all the time
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sessile-chaos-") as folder:
        verdict, stand, known = asyncio.run(
            run(Path(folder), given.nodes, given.faults, given.seconds, given.talkers, seed)
        )
    _print(verdict, stand, known, time.monotonic() - begun)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
