"""Starts, watches and ends the process of an offline model: one for each model file, made when it is first needed."""

import asyncio
import contextlib
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from sessile.ports import ModelFault

CHILD = "sessile.models.local_child"
END_SECONDS = 1.0
"""How long a process gets to end by itself before it is killed."""
STABLE_SECONDS = 60.0
"""A process that lived as long is replaced at once, however many died before it."""
MAX_BACKOFF_SECONDS = 30.0
_KEPT_LINES = 20
_CHUNK_BYTES = 64 * 1024

_log = structlog.get_logger("sessile.models.local")


class Ready(Struct, frozen=True):
    """What the process says once it answers: the base URL, the key it wants, and the tokens one call may have."""

    base_url: str
    key: str
    context_window: int


class Running(Struct, frozen=True):
    """A process that answers, or did."""

    process: Process
    ready: Ready


class LocalProcess:
    """Keeps a process for one model file. A file that ends its processes is tried less and less often."""

    def __init__(self, file: Path, tokens: int, slots: int, start_seconds: float) -> None:
        """`tokens`: for each of `slots` calls at the same time. Nothing is started."""
        self._arguments = [str(file), str(tokens), str(slots)]
        self._file = file.name
        self._start_seconds = start_seconds
        self._process: Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[Running] | None = None
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._deaths = 0
        self._not_before = 0.0
        self._closed = False

    async def running(self) -> Running:
        """The process, started if none runs; callers at the same time wait for the same start. Raises ModelFault."""
        if self._closed:
            raise ModelFault("model_unavailable", "The server is stopping.", retryable=False)
        if self._starting is None or not self._is_good(self._starting):
            self._starting = asyncio.create_task(self._start())
            # A start whose callers have all gone away may fail unheard: it was logged.
            self._starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._starting)

    async def ended(self, running: Running, seconds: float) -> bool:
        """Whether this process has ended; waits a moment, because a connection breaks before its end is known."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await running.process.wait()
        return running.process.returncode is not None

    async def close(self) -> None:
        """End the process, and wait until it is gone. No other is started."""
        self._closed = True
        if self._process is not None:
            await self._end(self._process)
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if self._watcher is not None:
            await self._watcher

    @staticmethod
    def _is_good(start: "asyncio.Task[Running]") -> bool:
        if not start.done():
            return True
        return not start.cancelled() and start.exception() is None and start.result().process.returncode is None

    async def _start(self) -> Running:
        loop = asyncio.get_running_loop()
        wait = self._not_before - loop.time()
        if wait > 0:
            message = f"The local model's process ended {self._deaths} times in a row; the next starts in {wait:.0f} s."
            raise ModelFault("model_unavailable", message, retryable=True, retry_after=wait)
        began = loop.time()
        self._said.clear()
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", CHILD, *self._arguments, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        self._watcher = asyncio.create_task(self._watch(process, began))
        ready: Ready | None = None
        try:
            # A close that came while the process was being made has not seen it.
            if not self._closed:
                ready = await self._read_ready(process)
        finally:
            if ready is None:
                await self._end(process)
        if ready is None:
            raise ModelFault(
                "model_unavailable",
                "The process of the local model did not start; the server's log says why.",
                retryable=not self._closed,
            )
        _log.debug("local_model_ready", model=self._file, pid=process.pid, seconds=round(loop.time() - began, 2))
        return Running(process, ready)

    async def _read_ready(self, process: Process) -> Ready | None:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(self._start_seconds):
                return msgspec.json.decode(await process.stdout.readline(), type=Ready)
        except msgspec.DecodeError:
            return None
        except TimeoutError:
            self._said.append(f"It was not ready after {self._start_seconds:g} seconds.")
            return None

    async def _watch(self, process: Process, began: float) -> None:
        """Read what the process says until it ends, and remember how it ended."""
        assert process.stderr is not None
        rest = b""
        while data := await process.stderr.read(_CHUNK_BYTES):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._said.append(line.decode("utf-8", "replace"))
                _log.debug("local_model_says", model=self._file, line=self._said[-1])
        status = await process.wait()
        if self._closed:
            return
        now = asyncio.get_running_loop().time()
        self._deaths = 1 if now - began >= STABLE_SECONDS else self._deaths + 1
        # The first is replaced at once: whatever ended it may never happen again.
        self._not_before = now + min(MAX_BACKOFF_SECONDS, 2.0 ** (self._deaths - 1)) if self._deaths > 1 else now
        _log.error("local_model_ended", model=self._file, pid=process.pid, how=_how(status), said=list(self._said))

    @staticmethod
    async def _end(process: Process) -> None:
        """Close stdin, which ends the process; kill it when that does not help."""
        try:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"signal {signal.Signals(-status).name}"
