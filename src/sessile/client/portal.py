"""An event loop in a thread of its own, for callers that have none, or whose own loop is busy (a notebook)."""

import asyncio
import contextlib
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

T = TypeVar("T")
AtEnd = Callable[[], Coroutine[Any, Any, None]]

_LOOK_SECONDS = 0.5
"""How often a waiting thread looks up: on some systems only then it sees Ctrl-C."""
_PATIENCE_SECONDS = 5.0
"""How long what was cancelled may take to clean up behind itself."""


class Portal:
    """Runs coroutines for other threads, any number at once. Its own thread starts with the first call.

    `close` cancels what runs, runs `at_end` on the loop and ends the thread; so does forgetting the portal, and the end
    of the program.
    """

    def __init__(self, at_end: AtEnd) -> None:
        self._at_end = at_end
        self._lock = threading.Lock()
        self._closed = False
        self._thread: _LoopThread | None = None
        self._forgotten: weakref.finalize[..., Portal] | None = None

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result. Ctrl-C in this thread cancels it. Raises what it raises."""
        outcome: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []
        try:
            thread = self._opened()
            thread.loop.call_soon_threadsafe(thread.begin, coroutine, tasks, outcome)
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return _wait(outcome, thread)
        except CancelledError:
            raise RuntimeError("The client was closed while this call was running.") from None
        finally:
            if not outcome.done() and thread.is_alive():
                thread.loop.call_soon_threadsafe(_cancel, tasks)
                with contextlib.suppress(CancelledError, TimeoutError):
                    outcome.exception(_PATIENCE_SECONDS)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Go through an asynchronous iterator, one call for each step."""
        while True:
            try:
                item = self.call(_next(items))
            except StopAsyncIteration:
                return
            yield item

    def close(self) -> None:
        """Close it, and wait until it is. Closing twice is fine."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None and self._forgotten is not None and self._forgotten.detach() is not None:
            thread.end()

    def _opened(self) -> "_LoopThread":
        with self._lock:
            if self._closed:
                raise RuntimeError("The client is closed.")
            if self._thread is None:
                self._thread = _LoopThread(self._at_end)
                self._thread.start()
                self._forgotten = weakref.finalize(self, _forget, self._thread)
            if threading.current_thread() is self._thread:
                raise RuntimeError("The synchronous client cannot be called from its own event loop.")
            return self._thread


class _LoopThread(threading.Thread):
    """The thread of a portal. It knows nothing of the portal, so that the portal can be forgotten."""

    def __init__(self, at_end: AtEnd) -> None:
        super().__init__(name="sessile-client", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.unheard = False
        """Whether the program ends: whoever still waits is a daemon thread, and gets no answer any more."""
        self._at_end = at_end

    def run(self) -> None:
        """Run the loop until `end`, and clean up."""
        loop = self.loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            running = asyncio.all_tasks(loop)
            for task in running:
                task.cancel()
            if running:
                loop.run_until_complete(asyncio.wait(running, timeout=_PATIENCE_SECONDS))
            loop.run_until_complete(self._at_end())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def begin(self, coroutine: Coroutine[Any, Any, T], tasks: list[asyncio.Task[T]], outcome: Future[T]) -> None:
        """On the loop: start a coroutine, and hand its outcome on."""
        task = self.loop.create_task(coroutine)
        tasks.append(task)
        task.add_done_callback(lambda task: self._settle(task, outcome))

    def end(self) -> None:
        """End the thread and wait for it."""
        with contextlib.suppress(RuntimeError):  # It has ended by itself.
            self.loop.call_soon_threadsafe(self.loop.stop)
        if threading.current_thread() is not self:
            self.join(2 * _PATIENCE_SECONDS)

    def _settle(self, task: asyncio.Task[T], outcome: Future[T]) -> None:
        if task.cancelled():
            if not self.unheard:
                outcome.cancel()
        elif (error := task.exception()) is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(task.result())


def _forget(thread: _LoopThread) -> None:
    """A call holds its portal: so nobody waits any more, or the program ends."""
    warnings.warn("A Sessile client was not closed.", ResourceWarning, stacklevel=2)
    thread.unheard = True
    thread.end()


def _cancel(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()


def _wait(outcome: Future[T], thread: _LoopThread) -> T:
    """The result. Raises CancelledError too when the thread has ended without one."""
    while True:
        try:
            return outcome.result(_LOOK_SECONDS)
        except TimeoutError:
            if outcome.done():  # since a moment, or with a TimeoutError of its own
                return outcome.result()
            if not thread.is_alive() and not thread.unheard:
                raise CancelledError from None


async def _next(items: AsyncIterator[T]) -> T:
    return await anext(items)
