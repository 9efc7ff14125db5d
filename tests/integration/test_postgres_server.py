"""The PostgreSQL server of the tests themselves: it never outlives who started it, and runs wherever it can be read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sessile.testing import postgres

HOLD = """
import sys
from sessile.testing.postgres import postgres_server
with postgres_server() as server:
    print(server._folder, flush=True)
    sys.stdin.read()
"""


def until(probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_it_ends_with_the_process_that_started_it(how: signal.Signals | None) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        folder = Path(holder.stdout.readline().decode().strip())
        pid = int((folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        assert runs(pid)
        if how is None:
            holder.stdin.close()
        else:
            holder.send_signal(how)
        holder.wait()
    until(lambda: not runs(pid))
    until(lambda: not folder.exists())


def test_programs_that_another_user_cannot_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_reachable", lambda path: False)
    programs = postgres._programs(tmp_path, "nobody")
    assert tmp_path in programs.parents
    told = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("postgres (PostgreSQL)")


def test_a_folder_that_only_its_owner_enters_is_not_reachable(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    tmp_path.chmod(0o700)
    assert not postgres._reachable(inside)
    assert postgres._reachable(Path("/"))
