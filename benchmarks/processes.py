"""Server processes of the benchmark: started on a free port of loopback, awaited, looked at, and ended."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from benchmarks.load import Result, Spec

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_SECONDS = 30.0


class NotMeasured(Exception):
    """Something stood in the way of a measurement."""


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's variables, without settings of the product, with both packages on the path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SESSILE_")}
    path = [str(ROOT), str(ROOT / "src"), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {"PYTHONPATH": os.pathsep.join(path), "SESSILE_DEFAULT_MODEL": "demo"} | (extra or {})


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server process that answers `GET /readyz` with 200 once it can be used."""

    def __init__(self, arguments: list[str], port: int, folder: Path, extra: dict[str, str] | None = None) -> None:
        self.port = port
        self._log = folder / f"server-{port}.log"
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], env=environment(extra), cwd=folder, stdout=log, stderr=log
            )
        try:
            self._wait(started)
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.perf_counter() - started

    def _wait(self, started: float) -> None:
        while not self._ready():
            if self._process.poll() is not None or time.perf_counter() - started > START_LIMIT_SECONDS:
                tail = self._log.read_text(errors="replace")[-1500:]
                raise NotMeasured(f"the server did not get ready: {tail}")
            time.sleep(0.004)

    def _ready(self) -> bool:
        request = f"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:{self.port}\r\nconnection: close\r\n\r\n"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=2) as probe:
            probe.sendall(request.encode())
            return probe.recv(64).startswith(b"HTTP/1.1 200")
        return False

    def resident_bytes(self) -> int | None:
        """Resident memory, or None on a system without /proc."""
        status = Path(f"/proc/{self._process.pid}/status")
        if not status.exists():
            return None
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL if that is not enough."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def load(spec: Spec) -> Result:
    """Run the load generator once. Raises NotMeasured when an answer was wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=msgspec.json.encode(spec),
        capture_output=True,
        env=environment(),
        cwd=ROOT,
        timeout=spec.seconds + 120,
        check=False,
    )
    if done.returncode:
        raise NotMeasured(f"the load generator failed: {done.stderr.decode(errors='replace')[-800:]}")
    result = msgspec.json.decode(done.stdout, type=Result)
    if result.errors or not result.requests:
        raise NotMeasured(f"{result.errors} wrong answers, {result.requests} right ones; first: {result.first_error}")
    return result
