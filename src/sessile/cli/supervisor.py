"""`sessile serve --workers N`: a process that runs no turns, and keeps N others running that share one port.

The sockets are bound here and handed on, so all workers take connections off one queue: whoever is free takes the next
one, on Linux and macOS alike, and what waits in the queue outlives a worker. (With SO_REUSEPORT each worker would have
a queue of its own: Linux deals connections out by a hash, busy or not, what waits for one that dies is lost, and macOS
deals out nothing.)
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from sessile import logs
from sessile.api.server import listen
from sessile.cli.faults import FAILED
from sessile.cli.serving import Told
from sessile.config import Config

_FIRST_PAUSE, _LAST_PAUSE = 0.2, 30.0
"""Seconds before a worker that has died is replaced; twice as long each time, until one lives for a while."""
_LIVES_SECONDS = 60.0
_EXIT_SECONDS = 3.0
"""What a worker gets beyond its settings' time to end."""
_AT_ONCE_SECONDS = 1.0
_MAX_FOLDER_BYTES = 96
"""The name of a Unix socket has 103 bytes at most on macOS, 107 on Linux."""
_log = structlog.get_logger("sessile")


class Start(Struct, frozen=True, kw_only=True):
    """What a worker is told at its start, on its stdin; that it stays open tells that we live."""

    number: int
    config: Config
    config_file: str | None
    sample: str | None
    sockets: list[int]
    report: int
    """Where it writes its greeting once it is ready."""
    meeting: str


class Supervisor:
    """Starts workers, replaces those that die, and ends them."""

    def __init__(
        self, config: Config, config_file: str | None, sample: str | None, tell: Callable[[Told], None]
    ) -> None:
        self._config = config
        self._config_file = config_file
        self._sample = sample
        self._tell = tell
        self._sockets: list[socket.socket] = []
        self._meeting = ""
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Run until a signal; returns the exit code. Raises ConfigError."""
        logs.configure(self._config.log_level)
        self._sockets = await listen(self._config.host, self._config.port)
        self._meeting = _new_folder()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._run_all(tasks))
                tasks.create_task(self._end_all())
        finally:
            self._close_sockets()
            shutil.rmtree(self._meeting, ignore_errors=True)
        return self._code

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    async def _run_all(self, tasks: asyncio.TaskGroup) -> None:
        """Start the first worker, which prepares the database, then the others; tell when all of them are ready."""
        first = await self._start(1)
        if first is None:
            return
        tasks.create_task(self._keep(1))
        others = range(2, self._config.workers + 1)
        ready = await asyncio.gather(*(self._start(number) for number in others))
        for number in others:
            tasks.create_task(self._keep(number))
        if all(ready) and not self._stop.is_set():
            self._tell(first)

    async def _start(self, number: int) -> Told | None:
        """Start a worker and wait until it is ready. None when it ends before: then everything ends."""
        told = await self._spawn(number)
        if told is None and not self._stop.is_set():
            code = await self._workers[number].wait()
            if code < 0:
                _log.error("worker_ended", worker=number, code=code)  # otherwise it has told why itself
            self._code = code if code > 0 else FAILED
            self._stop.set()
        return told

    async def _keep(self, number: int) -> None:
        """Wait for the end of a worker, and replace it, again and again if need be, until everything ends."""
        pause, since = _FIRST_PAUSE, time.monotonic()
        while number in self._workers:
            code = await self._workers[number].wait()
            if self._stop.is_set():
                return
            if time.monotonic() - since > _LIVES_SECONDS:
                pause = _FIRST_PAUSE
            _log.error("worker_ended", worker=number, code=code, again_in_seconds=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()
                    return
            pause, since = min(2 * pause, _LAST_PAUSE), time.monotonic()
            try:
                if await self._spawn(number) is not None:
                    _log.warning("worker_replaced", worker=number)
            except OSError as error:  # no memory, no process, no file to run: it may pass, and the others go on
                _log.error("worker_not_started", worker=number, error=str(error))

    async def _spawn(self, number: int) -> Told | None:
        """Start a process, unless everything ends; returns when it is ready, or has ended."""
        if self._stop.is_set():
            return None
        reads, writes = os.pipe()
        sockets = [opened.fileno() for opened in self._sockets]
        start = Start(
            number=number,
            config=self._config,
            config_file=self._config_file,
            sample=self._sample if number == 1 else None,
            sockets=sockets,
            report=writes,
            meeting=self._meeting,
        )
        try:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sessile.cli.worker"),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=[*sockets, writes],
                process_group=0,  # Ctrl-C is for us: a worker must hear of it once
            )
        except OSError:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        self._workers[number] = worker
        if self._stop.is_set():
            worker.send_signal(signal.SIGTERM)
        assert worker.stdin is not None
        worker.stdin.write(msgspec.json.encode(start) + b"\n")
        report = await _read_all(reads)
        return msgspec.json.decode(report, type=Told) if report else None

    async def _end_all(self) -> None:
        """After a signal, or a start that failed: drain all workers; after a second signal, end them at once."""
        await self._stop.wait()
        self._signal_all(signal.SIGTERM)
        self._close_sockets()
        seconds = self._config.drain_seconds + self._config.shutdown_seconds + _EXIT_SECONDS
        ended = asyncio.create_task(self._all_ended())
        hurry = asyncio.create_task(self._at_once.wait())
        both: list[asyncio.Task[Any]] = [ended, hurry]
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if not ended.done():
            self._signal_all(signal.SIGTERM)
            await asyncio.wait([ended], timeout=_AT_ONCE_SECONDS)
            self._signal_all(signal.SIGKILL)
        codes = await ended
        if self._code == 0 and any(code not in (0, -signal.SIGTERM) for code in codes) and not self._at_once.is_set():
            self._code = FAILED

    def _close_sockets(self) -> None:
        """Listen no more: once the workers do not either, clients are refused at once, and do not wait for the end."""
        for opened in self._sockets:
            opened.close()

    async def _all_ended(self) -> list[int]:
        return await asyncio.gather(*(worker.wait() for worker in self._workers.values()))

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            if worker.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    worker.send_signal(number)


def _new_folder() -> str:
    """A temporary folder, for whose sockets the system's limit on the length of their names leaves room."""
    folder = tempfile.mkdtemp(prefix="sessile-")
    if len(os.fsencode(folder)) > _MAX_FOLDER_BYTES:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="sessile-", dir="/tmp")
    return folder


async def _read_all(descriptor: int) -> bytes:
    """What a pipe brings until its other end is closed."""
    reader = asyncio.StreamReader()
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
        try:
            return await reader.read()
        finally:
            transport.close()
