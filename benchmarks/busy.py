"""Many followers of many sessions whose models all speak, and a slow reader beside a fast one.

`python -m benchmarks.busy --help` runs the first alone: what is wrong makes the exit status 1.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from benchmarks.followers import raise_file_limit
from benchmarks.processes import ROOT, NotMeasured, Server, environment
from benchmarks.product import Product
from benchmarks.readers import Report, Spec
from benchmarks.table import Row

AGENT = "steady"
MAX_GROWN_MIB = 8
"""What a slow reader may cost: a mebibyte of frames that it has not read, some times over."""
_SPARE_SECONDS = 60.0


class Scene(Struct, frozen=True):
    """How many, how fast, how long."""

    sessions: int
    followers: int
    rate: float
    """Deltas a second in each session."""
    seconds: float
    """How long a turn takes."""
    turns: int = 1
    dots: int = 0
    """Characters of a delta besides its time."""
    slow: bool = False


class Found(Struct):
    """What the followers saw, and what it cost."""

    report: Report
    grown_bytes: int | None
    """How much the server's resident memory grew from before the turns to after them."""


class _Page(Struct):
    events: list[msgspec.Raw]
    metadata: dict[str, str]


def play(product: Product, server: Server, scene: Scene, shown_by: Server | None = None) -> Found:
    """One turn in each session, followed by everybody, on another server of the same database if one is given.

    Raises NotMeasured when somebody saw anything but the log.
    """
    raise_file_limit()
    parameters = {"deltas": round(scene.rate * scene.seconds), "pace": 1 / scene.rate, "dots": scene.dots}
    agent = {"name": "Steady", "model": {"name": AGENT, "parameters": parameters}}
    key = msgspec.json.decode(product.post(server.port, "/v2/agents", agent))["key"]
    sessions = f"/v2/agents/{key}/sessions"
    made = [msgspec.json.decode(product.post(server.port, sessions, {})) for _ in range(scene.sessions)]
    paths = [f"{sessions}/{session['key']}" for session in made]
    spec = Spec(
        port=(shown_by or server).port,
        paths=paths,
        followers=scene.followers,
        seconds=scene.seconds * scene.turns + _SPARE_SECONDS,
        headers=product.headers,
        turns=scene.turns,
        slow=scene.slow,
    )
    before = server.resident_bytes()
    report = _followed(product, server, spec)
    after = server.resident_bytes()
    _check(report, [_digest(product, server, path) for path in paths], scene)
    return Found(report, None if before is None or after is None else after - before)


def _followed(product: Product, server: Server, spec: Spec) -> Report:
    command = [sys.executable, "-m", "benchmarks.readers"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True
    ) as readers:
        assert readers.stdin is not None
        assert readers.stdout is not None
        try:
            readers.stdin.write(msgspec.json.encode(spec).decode() + "\n")
            readers.stdin.flush()
            if readers.stdout.readline() != "ready\n":
                raise NotMeasured("the followers did not connect")
            patience = {"request-timeout-millis": "1"} if spec.turns == 1 else {}
            for path in spec.paths * spec.turns:
                product.post(server.port, f"{path}/events", {"content": "Speak."}, patience)
            return msgspec.json.decode(readers.stdout.read(), type=Report)
        finally:
            readers.kill()


def _check(report: Report, digests: list[str], scene: Scene) -> None:
    different = sum(seen != [digest] for seen, digest in zip(report.digests, digests, strict=True))
    outputs = scene.followers * scene.turns
    if report.wrong or different or report.outputs != outputs:
        raise NotMeasured(
            f"{different} sessions were seen otherwise than their logs are; {report.outputs} outputs of {outputs};"
            f" {len(report.wrong)} defects, first: {report.wrong[:1]}"
        )


def _digest(product: Product, server: Server, path: str) -> str:
    """Of the log of a session, as a follower makes it."""
    digest, page_key = hashlib.sha256(), ""
    while True:
        page = _get(product, server, f"{path}/events?records=true&limit=100&page_key={page_key}")
        for event in page.events:
            digest.update(bytes(event))
        page_key = page.metadata.get("page_key", "")
        if not page_key:
            return digest.hexdigest()


def _get(product: Product, server: Server, path: str) -> _Page:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", headers=product.headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return msgspec.json.decode(response.read(), type=_Page)


def crowd(product: Product, server: Server, scene: Scene) -> Row:
    """Everybody sees exactly the log; how late deltas are."""
    found = play(product, server, scene).report
    pace = f"{scene.rate:g} deltas/s each, {scene.seconds:g} s"
    frames = f"{found.deltas / scene.seconds:,.0f} frames/s"
    return Row(
        name=f"{scene.followers:,} followers of {scene.sessions:,} sessions, {pace}",
        measured=f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms ({frames})",
        budget="all see the log",
        met=True,
        generator=found.cpu_share,
    )


def beside_a_slow_reader(product: Product, server: Server, turns: int) -> list[Row]:
    """A fast reader of a busy session with and without one beside it that takes 1 KiB a second."""
    scene = Scene(sessions=1, followers=1, rate=400, seconds=2, turns=turns, dots=1000)
    alone = play(product, server, scene)
    beside = play(product, server, msgspec.structs.replace(scene, slow=True))
    rows = [
        Row(
            name=f"a reader beside one of 1 KiB/s, 400 deltas of 1 KB a second, {2 * turns} s",
            measured=f"p50 {beside.report.p50_ms:.2f} ms, p99 {beside.report.p99_ms:.2f} ms",
            limit=f"alone: p50 {alone.report.p50_ms:.2f} ms, p99 {alone.report.p99_ms:.2f} ms",
            generator=beside.report.cpu_share,
        )
    ]
    if beside.grown_bytes is not None and alone.grown_bytes is not None:
        mib = max(0, beside.grown_bytes - alone.grown_bytes) / 2**20
        rows.append(
            Row(
                name="… how much more the server's memory grew than without it",
                measured=f"{mib:.1f} MiB",
                budget=f"≤ {MAX_GROWN_MIB} MiB",
                met=mib <= MAX_GROWN_MIB,
            )
        )
    return rows


def main() -> int:
    """Run one scene on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    for name, default in (("sessions", 200), ("followers", 1000), ("rate", 20), ("seconds", 60)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given: Any = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sessile-busy-") as folder:
        product = Product(Path(folder) / "busy")
        server = product.start()
        try:
            row = crowd(product, server, Scene(given.sessions, given.followers, given.rate, given.seconds))
        except NotMeasured as failure:
            print(failure)
            return 1
        finally:
            server.stop()
    print(f"{row.name}: {row.measured}; followers' share of one core {row.generator:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
