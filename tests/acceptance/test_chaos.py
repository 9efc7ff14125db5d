"""A short run of `make chaos`: every promise is kept, and each phase was hit."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_kills_under_load_lose_and_double_nothing() -> None:
    command = [sys.executable, "-m", "chaos", "--kills", "12", "--seconds", "180"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = dict(re.findall(r"^ *([a-z -]+?) {2,}(\d+)", done.stdout, re.MULTILINE))
    assert [figures[name] for name in ("inputs lost", "inputs doubled", "invariants broken")] == ["0", "0", "0"]
    assert int(figures["repeated under a key"]) > 0
    assert int(figures["inputs accepted"]) == int(figures["turns ended"]) > 0
    for phase in ("before input commit", "mid-delta", "tool running", "before end commit"):
        assert int(figures[phase]) == 3
