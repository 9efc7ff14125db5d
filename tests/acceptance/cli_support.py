"""Running the command line as people and scripts do: in a process of its own, on pipes or on a terminal."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from acceptance.stage import WAIT_SECONDS
from sessile.testing.server import OWNER_KEY

SESSILE = (sys.executable, "-m", "sessile")
_ON_THIS_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""A start of a program that makes the terminal on its stdin the one whose Ctrl-C reaches it."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\[?[0-9;?]*\Z")


@dataclass
class Done:
    """What a command did."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one JSON document on stdout."""
        (line,) = self.stdout.splitlines()
        return msgspec.json.decode(line)

    def json_lines(self) -> list[Any]:
        """The JSON documents on stdout, one a line."""
        return [msgspec.json.decode(line) for line in self.stdout.splitlines()]

    def error(self) -> Any:
        """The JSON error on stderr."""
        (line,) = self.stderr.splitlines()
        return msgspec.json.decode(line)

    def rows(self) -> list[list[str]]:
        """The lines on stdout, cut at tabs."""
        return [line.split("\t") for line in self.stdout.splitlines()]


def environment(url: str, **variables: str | None) -> dict[str, str]:
    """The environment of a command beside a server; None removes a variable."""
    unwanted = {"FORCE_COLOR": None, "NO_COLOR": None, "PY_COLORS": None, "GITHUB_ACTIONS": None}
    wanted = {**os.environ, **unwanted, "SESSILE_URL": url, "SESSILE_API_KEY": OWNER_KEY, "TERM": "xterm", **variables}
    return {name: value for name, value in wanted.items() if value is not None}


async def run(env: Mapping[str, str], *arguments: str, stdin: bytes | None = None) -> Done:
    """Run a command to its end; without `stdin` it has none."""
    process = await asyncio.create_subprocess_exec(
        *SESSILE,
        *arguments,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(WAIT_SECONDS):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    assert b"Traceback" not in err, err.decode()
    return Done(process.returncode, out.decode(), err.decode())


class Terminal:
    """A pseudo-terminal with a command on it."""

    def __init__(self, process: asyncio.subprocess.Process, master: int) -> None:
        self.raw = b""
        """All that the command wrote, as it wrote it."""
        self._process = process
        self._master = master
        self._news = asyncio.Event()
        self._read_to = 0
        self._closed = False
        asyncio.get_running_loop().add_reader(master, self._read)

    @property
    def screen(self) -> str:
        """All that the command wrote, without styles."""
        return _ESCAPES.sub("", self.raw.decode("utf-8", "ignore")).replace("\r", "")

    @property
    def styled(self) -> bool:
        """Whether anything that was written changes how text looks."""
        return re.search(rb"\x1b\[[0-9;]*m", self.raw) is not None

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        """Type a line."""
        self.type(line + "\r")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("\x03")

    async def interrupt_prompt(self, answer: str) -> str:
        """Press Ctrl-C at a prompt, and wait for the answer.

        Python sees a Ctrl-C that comes in the instant between the prompt and the waiting for keys only when something
        else interrupts that waiting: here, the signal that the terminal has another size.
        """
        self.interrupt()
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    return await asyncio.wait_for(self.until(answer), 0.5)
                except TimeoutError:
                    self._process.send_signal(signal.SIGWINCH)

    async def until(self, text: str) -> str:
        """Wait until this was written after what was waited for last; returns what came up to it, without styles."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                new = self.screen[self._read_to :]
                place = new.find(text)
                if place >= 0:
                    self._read_to += place + len(text)
                    return new[: place + len(text)]
                if self._closed:
                    raise AssertionError(f"{text!r} never came: {self.screen!r}")
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> int:
        """Wait for the end of the command; returns its exit code."""
        async with asyncio.timeout(WAIT_SECONDS):
            return await self._process.wait()

    async def close(self) -> None:
        """End the command if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._stop_reading()
        os.close(self._master)

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:  # On Linux the other end of a terminal that is closed reads as an error.
            data = b""
        if data:
            self.raw += data
        else:
            self._stop_reading()
        self._news.set()

    def _stop_reading(self) -> None:
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._master)


@asynccontextmanager
async def terminal(env: Mapping[str, str], *arguments: str) -> AsyncIterator[Terminal]:
    """Run a command on a terminal."""
    master, slave = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _ON_THIS_TERMINAL, *SESSILE, *arguments),
            env=env,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
    finally:
        os.close(slave)
    shown = Terminal(process, master)
    try:
        yield shown
    finally:
        with contextlib.suppress(ProcessLookupError):
            await shown.close()
    assert "Traceback" not in shown.screen, shown.screen
