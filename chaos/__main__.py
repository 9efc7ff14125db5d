"""`python -m chaos`: random kills of a real server under load, and what came of it."""

import argparse
import asyncio
import logging
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import httpx

from chaos.load import AGENT, Acknowledged, Talker
from chaos.model import TOOLS, Model
from chaos.oracle import Verdict, judge
from chaos.stand import PHASES, Stand

_MOMENT_SECONDS = 20.0
_CALM_SECONDS = 0.6


def _config(url: str) -> str:
    return (
        '[models.stub]\nprovider = "openai_compatible"\nmodel = "stub"\n'
        f'base_url = "{url}/v1"\n'
        '[tools.once]\nfunction = "chaos_tools:once"\n'
        '[tools.again]\nfunction = "chaos_tools:again"\nidempotent = true\n'
        "[limits]\nrequests_per_second = 0\n"
    )


async def _prepare(stand: Stand, sessions: list[str]) -> None:
    tools = {name: {"type": "lambda"} for name in ("once", "again")}
    agent = {"key": AGENT, "name": "Chaos", "model": {"name": "stub"}, "tool_configurations": tools}
    async with httpx.AsyncClient(base_url=stand.url, headers=stand.headers) as client:
        (await client.post("/v2/agents", json=agent)).raise_for_status()
        for session in sessions:
            (await client.post(f"/v2/agents/{AGENT}/sessions", json={"key": session})).raise_for_status()


async def _kill(stand: Stand, kills: int, seconds: float) -> None:
    """Kill and start the server: each phase in turn, until there were enough or the time is over."""
    deadline = time.monotonic() + seconds
    for number in range(kills):
        if time.monotonic() > deadline:
            return
        await asyncio.sleep(stand.chance.random() * _CALM_SECONDS)
        stand.arm(PHASES[number % len(PHASES)])
        async with asyncio.timeout(_MOMENT_SECONDS):
            await stand.dead.wait()
        await stand.start()


async def run(folder: Path, kills: int, seconds: float, talkers: int, seed: int) -> tuple[Verdict, Stand, Acknowledged]:
    """One whole run."""
    model = Model()
    ear = os.environ["CHAOS_EAR"] = await model.start()
    (folder / "chaos_tools.py").write_text(TOOLS)
    stand = model.stand = Stand(folder, _config(ear), random.Random(seed))
    known = Acknowledged()
    sessions = [f"s{number}" for number in range(talkers)]
    stop = asyncio.Event()
    try:
        await stand.start()
        await _prepare(stand, sessions)
        async with asyncio.TaskGroup() as group:
            for session in sessions:
                group.create_task(Talker(stand, session, known).talk(stop))
            await _kill(stand, kills, seconds)
            stop.set()
        return await judge(stand, sessions, known, model), stand, known
    finally:
        await stand.end()
        await model.end()


def _print(verdict: Verdict, stand: Stand, known: Acknowledged, seconds: float) -> None:
    print(f"inputs sent            {known.sent}, of which {known.uncertain} were cut off before their answer")
    print(f"repeated under a key   {known.repeated}")
    print(f"inputs accepted        {verdict.accepted}")
    print(f"turns ended            {verdict.ended}")
    print(f"events in the logs     {verdict.events}")
    print(f"inputs lost            {len(verdict.lost)}")
    print(f"inputs doubled         {len(verdict.doubled)}")
    print(f"invariants broken      {len(verdict.broken)}")
    print(f"kills                  {sum(stand.kills.values())} in {seconds:.0f} s")
    for phase in PHASES:
        print(f"  {phase:<20} {stand.kills[phase]:>3}  {'#' * stand.kills[phase]}")
    for name, found in (("lost", verdict.lost), ("doubled", verdict.doubled), ("broken", verdict.broken)):
        for problem in found[:20]:
            print(f"{name}: {problem}")


def main() -> int:
    """Run, print, and fail when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=240, help="no kill is begun after this time")
    parser.add_argument("--talkers", type=int, default=8, help="sessions that talk at the same time")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed                   {seed}", flush=True)
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # the stub model is cut off all the time
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sessile-chaos-") as folder:
        verdict, stand, known = asyncio.run(run(Path(folder), given.kills, given.seconds, given.talkers, seed))
    _print(verdict, stand, known, time.monotonic() - begun)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
