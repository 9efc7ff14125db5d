"""Many followers of sessions that all speak at once, over HTTP from another process: each sees exactly its log.

How fast that is, `make bench` says; here no time counts.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_follower_of_many_busy_sessions_sees_its_log() -> None:
    command = [sys.executable, "-m", "benchmarks.busy", "--sessions", "10", "--followers", "50", "--seconds", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "50 followers of 10 sessions" in done.stdout
