"""Short runs of `make chaos`: every promise is kept, and each fault happened as often as it should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHASES = ("before input commit", "mid-delta", "tool running", "before end commit")
TROUBLES = ("database killed", "stalled past its lease", "cut off, silence", "cut off, resets")


@pytest.mark.parametrize(("nodes", "faults", "times"), [(1, PHASES, 3), (3, PHASES + TROUBLES, 1)])
def test_faults_under_load_lose_and_double_nothing(nodes: int, faults: tuple[str, ...], times: int) -> None:
    bound = ["--nodes", str(nodes), "--faults", str(times * len(faults)), "--seconds", "180", "--talkers", "6"]
    command = [sys.executable, "-m", "chaos", *bound]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^ *([a-z, -]+?) {2,}(\d+)", done.stdout, re.MULTILINE))
    assert [figures[name] for name in ("inputs lost", "inputs doubled", "invariants broken")] == ["0", "0", "0"]
    assert int(figures["repeated under a key"]) > 0
    assert int(figures["inputs accepted"]) == int(figures["turns ended"]) > 0
    assert int(figures["events followed"]) == int(figures["events in the logs"])
    assert {fault: int(figures[fault]) for fault in faults} == dict.fromkeys(faults, times)
