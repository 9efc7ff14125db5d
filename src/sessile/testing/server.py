"""A real server process for tests: started on a free loopback port, found ready, and ended by its pid."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

OWNER_KEY = "sk-test-owner-0123456789abcdef"
DEFAULTS: dict[str, str | None] = {
    "SESSILE_OWNER_KEY": OWNER_KEY,
    "SESSILE_DEFAULT_MODEL": "demo",
    "PYTHONUNBUFFERED": "1",
}
"""What a server has in its environment unless its test says otherwise: no model costs anything, or fills the memory."""
START_SECONDS = 30.0
_READY = re.compile(rb"ready at .*?(http://[0-9.:\[\]]+\d)")


class ServerProcess:
    """`sessile serve` in a process of its own, as a context manager; leaving it ends the process.

    `config` is the text of `sessile.toml`, written beside `data` in `folder`, where tool modules are looked for too.
    A second `start` after `kill` or `terminate` uses the same data folder. In `env`, None removes a variable.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        *,
        arguments: Sequence[str] = (),
        env: Mapping[str, str | None] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "sessile"),
    ) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.key = OWNER_KEY
        self.url = ""
        self._config_file = folder / "sessile.toml"
        self._config_file.write_text(config)
        self._command = [*command, "serve", "--port", "0", "--data", str(self.data)]
        self._command += ["--config", str(self._config_file), *arguments]
        wanted = {**os.environ, **DEFAULTS, **(env or {})}
        self._env = {name: value for name, value in wanted.items() if value is not None}
        self._process: subprocess.Popen[bytes] | None = None
        self._stdout: list[bytes] = []
        self._stderr: list[bytes] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None
        return self._process

    @property
    def headers(self) -> dict[str, str]:
        """Request headers that carry the owner key."""
        return {"x-api-key": self.key}

    def start(self, seconds: float = START_SECONDS) -> None:
        """Start the process and wait until it says where it listens. Raises RuntimeError when it does not."""
        self._stdout, self._stderr = [], []
        self._process = subprocess.Popen(
            self._command, env=self._env, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._readers = [
            threading.Thread(target=_collect, args=(pipe, lines), daemon=True)
            for pipe, lines in ((self.process.stdout, self._stdout), (self.process.stderr, self._stderr))
        ]
        for reader in self._readers:
            reader.start()
        deadline = time.monotonic() + seconds
        while (found := _READY.search(b"".join(self._stdout))) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not start: {self.stdout}{self.stderr}")
            time.sleep(0.01)
        self.url = found[1].decode()

    def kill(self) -> int:
        """End the process as a crash would (SIGKILL)."""
        return self._end(signal.SIGKILL)

    def terminate(self) -> int:
        """Ask the process to stop (SIGTERM) and wait for it; returns its exit status."""
        return self._end(signal.SIGTERM)

    @property
    def stdout(self) -> str:
        """What it printed so far."""
        return b"".join(self._stdout).decode()

    @property
    def stderr(self) -> str:
        """What it logged so far."""
        return b"".join(self._stderr).decode()

    def _end(self, number: signal.Signals) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(START_SECONDS)
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        return status


def _collect(pipe: object, lines: list[bytes]) -> None:
    for line in pipe:  # type: ignore[attr-defined]
        lines.append(line)
