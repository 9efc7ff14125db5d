"""Makes the disk of a server process slow, broken or full while it runs, or kills it at a commit. Linux only."""

import os
import shutil
import subprocess
import sys
from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal


class FsyncShim:
    """The compiled `fsync_shim.c` for the files under `watched`, and the switch for its mode.

    Start a process with `env` and switch with `work`, `delay`, `fail`, `fill` and `kill_at` at any time.
    """

    def __init__(self, folder: Path, watched: Path) -> None:
        self._control = folder / "fsync.mode"
        self._library = folder / "fsync_shim.so"
        _compile(self._library)
        self.work()
        self.env = {
            "LD_PRELOAD": str(self._library.resolve()),
            "SESSILE_FSYNC_FOLDER": str(watched.resolve()),
            "SESSILE_FSYNC_CONTROL": str(self._control.resolve()),
        }

    def work(self) -> None:
        """Sync as always."""
        self._switch("pass")

    def delay(self, seconds: float) -> None:
        """Wait before each sync."""
        self._switch(f"delay {round(seconds * 1000)}")

    def fail(self, error: str) -> None:
        """Fail each sync with `EIO` or `ENOSPC`."""
        self._switch(f"fail {error}")

    def fill(self) -> None:
        """Leave no room for any write."""
        self._switch("full")

    def kill_at(self, commit: int, when: Literal["before", "after"]) -> None:
        """Kill the process before it writes a commit, or once that is synced: 1 is the next one."""
        self._switch(f"kill {when} {commit}")

    def _switch(self, mode: str) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(mode)
        os.replace(new, self._control)


def _compile(library: Path) -> None:
    """With the system's compiler, or with the one in the `ziglang` package."""
    compiler = [found] if (found := shutil.which("cc")) else [sys.executable, "-m", "ziglang", "cc"]
    with as_file(files("sessile.testing") / "fsync_shim.c") as source:
        command = [*compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the shim cannot be compiled; install a C compiler or `ziglang`: {done.stderr}")
