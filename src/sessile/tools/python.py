"""Python functions as tools. What a function raises, returns or leaves running never harms the server."""

import asyncio
import contextvars
import functools
import importlib
import inspect
import math
import re
import threading
import typing
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from sessile.config import ConfigError, ToolConfig
from sessile.domain import overrides
from sessile.ports import ToolContext, ToolFault
from sessile.wire import codec
from sessile.wire.limits import MAX_INTEGER, MAX_JSON_DEPTH, MAX_TOOL_OUTPUT_BYTES, MIN_INTEGER

MAX_THREADS = 64
"""Calls of one plain function at a time. A call that hangs keeps its place, so that threads cannot pile up."""
MAX_MESSAGE_CHARS = 1_000
GRACE_SECONDS = 1.0
"""How long a cancelled coroutine may take to clean up before it is left to itself."""

_PATH = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")
_DEFINITIONS = "#/$defs/"

_log = structlog.get_logger()
_left: set[asyncio.Future[Any]] = set()
"""Coroutines that ignored their cancelling: the loop itself holds tasks only weakly."""

_Function = Callable[..., Any]
_Settled = dict[str, Any] | ToolFault
"""How a call ended: its result, or why it has none."""


def load(name: str, config: ToolConfig) -> "PythonTool":
    """Import the function that the table `[tools.NAME]` names.

    Raises ConfigError when it cannot be imported, or when its parameters cannot be described to a model.
    """
    return PythonTool(name, config, _import(name, config.function))


class PythonTool:
    """A Tool that calls a Python function.

    A coroutine function runs on the event loop and must not block it. A plain function runs in a daemon thread of its
    own, with the caller's context variables. Past the time limit a coroutine is cancelled; a thread cannot be killed:
    it is abandoned, its late result is ignored, and it does not keep the interpreter from exiting.
    """

    def __init__(self, name: str, config: ToolConfig, function: _Function) -> None:
        """Raises ConfigError when the parameters of `function` cannot be described to a model."""
        self.name = name
        self.description = config.description or _first_paragraph(function)
        self.idempotent = config.idempotent
        self._function = function
        self._is_async = inspect.iscoroutinefunction(_definition(function))
        self._timeout = config.timeout_seconds
        self._arguments, self.parameters = _arguments(name, function)
        self._slots = asyncio.Semaphore(MAX_THREADS)

    async def run(self, arguments: dict[str, Any], context: ToolContext | None = None) -> dict[str, Any]:
        """Call the function. An object (a dict, a dataclass, a Struct) is the result, else `{"result": value}`.

        Raises ToolFault: `tool_arguments_invalid`, `tool_timeout`, or `tool_failed` for whatever the function raises
        and for a result that is not JSON or larger than MAX_TOOL_OUTPUT_BYTES.
        """
        call = functools.partial(self._function, **self._converted(arguments))
        task = asyncio.ensure_future(self._on_loop(call) if self._is_async else self._in_thread(call))
        try:
            await asyncio.wait({task}, timeout=self._timeout)
            if not task.done():
                raise ToolFault("tool_timeout", f"The tool did not answer within {self._timeout:g} seconds.")
        finally:
            if not task.done():
                await _cancel(task)
        if task.cancelled():
            raise ToolFault("tool_failed", "The tool cancelled itself.")
        settled = task.result()
        if isinstance(settled, ToolFault):
            raise settled
        return settled

    def _converted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The given arguments as the types of the function; its own defaults stand for the others."""
        try:
            values = msgspec.convert(arguments, self._arguments)
        except msgspec.ValidationError as error:
            message = codec.invalid_field(str(error)).message
            raise ToolFault("tool_arguments_invalid", _shortened(message)) from None
        return {name: getattr(values, name) for name in arguments}

    async def _on_loop(self, call: Callable[[], Awaitable[Any]]) -> _Settled:
        try:
            value = await call()
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._failed(error)
        except BaseException as error:  # foreign code: a SystemExit that left the task would end the event loop
            return self._failed(error)
        return self._checked(value)

    async def _in_thread(self, call: Callable[[], Any]) -> _Settled:
        """Run a call in a thread; a coroutine that it returns runs on the loop.

        The pool of concurrent.futures is not used: the interpreter joins its threads when it exits.
        """
        await self._slots.acquire()
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        answer: asyncio.Future[_Settled | Coroutine[Any, Any, Any]] = loop.create_future()

        def deliver(outcome: _Settled | Coroutine[Any, Any, Any]) -> None:
            self._slots.release()
            if not answer.done():
                answer.set_result(outcome)
            elif isinstance(outcome, Coroutine):
                outcome.close()

        def work() -> None:
            outcome = context.run(self._called, call)
            with suppress(RuntimeError):  # the loop is closed and nobody waits
                loop.call_soon_threadsafe(deliver, outcome)

        try:
            threading.Thread(target=work, name=f"tool {self.name}", daemon=True).start()
        except RuntimeError as error:
            self._slots.release()
            return self._failed(error)
        outcome = await answer
        return await self._on_loop(lambda: outcome) if isinstance(outcome, Coroutine) else outcome

    def _called(self, call: Callable[[], Any]) -> _Settled | Coroutine[Any, Any, Any]:
        try:
            value = call()
        except BaseException as error:  # foreign code: whatever it raises is the outcome of the call
            return self._failed(error)
        return value if inspect.iscoroutine(value) else self._checked(value)

    def _failed(self, error: BaseException) -> ToolFault:
        _log.warning("tool_failed", tool=self.name, exception=overrides.traced(error))
        return ToolFault("tool_failed", _described(error))

    def _checked(self, value: Any) -> _Settled:
        """A copy of the result in plain JSON types."""
        try:
            plain = msgspec.to_builtins(value)
            result: dict[str, Any] = plain if isinstance(plain, dict) else {"result": plain}
            check_json(result, MAX_JSON_DEPTH)
            size = len(codec.encode(result))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return ToolFault("tool_failed", _shortened(f"The result of the tool is not JSON: {error}."))
        if size > MAX_TOOL_OUTPUT_BYTES:
            text = f"The result of the tool has {size} bytes; the limit is {MAX_TOOL_OUTPUT_BYTES}."
            return ToolFault("tool_failed", text)
        return result


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a call and let it clean up; one that goes on all the same is left behind."""
    task.cancel()
    _left.add(task)
    task.add_done_callback(_left.discard)
    await asyncio.wait({task}, timeout=GRACE_SECONDS)


def check_json(value: Any, depth: int) -> None:
    """Raise ValueError for what msgspec would encode and a strict JSON reader would refuse."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a JSON number")
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise ValueError("a number does not fit into 64 bits")
    if not isinstance(value, dict | list | tuple):
        return
    if depth == 0:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"the key {name!r} is not a string")
    for child in value.values() if isinstance(value, dict) else value:
        check_json(child, depth - 1)


def _described(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # foreign code: the exception class is the function's own
        text = ""
    name = type(error).__name__
    return _shortened(f"{name}: {text}" if text else name)


def _shortened(text: str) -> str:
    """At most MAX_MESSAGE_CHARS characters without secrets, all of which can be encoded."""
    return overrides.masked_now(text)[:MAX_MESSAGE_CHARS].encode("utf-8", "replace").decode()


def _import(name: str, path: str) -> _Function:
    match = _PATH.fullmatch(path)
    if match is None:
        raise ConfigError(f"tools.{name}: {path!r} is not of the form package.module:function")
    try:
        found: Any = importlib.import_module(match["module"])
    except (Exception, SystemExit) as error:  # foreign code: a module may do anything when it is imported
        raise ConfigError(f"tools.{name}: cannot import {match['module']}: {_described(error)}") from error
    for attribute in match["attribute"].split("."):
        if not hasattr(found, attribute):
            raise ConfigError(f"tools.{name}: {match['module']} has no {match['attribute']}")
        found = getattr(found, attribute)
    if not callable(found) or inspect.isclass(found):
        raise ConfigError(f"tools.{name}: {path} is not a function")
    function: _Function = found
    return function


def _definition(function: _Function) -> _Function:
    """Where the annotations and the docstring of a callable stand."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function):
        return function
    method: _Function = type(function).__call__.__get__(function)
    return method


def _first_paragraph(function: _Function) -> str:
    text = inspect.getdoc(_definition(function)) or ""
    return " ".join(text.split("\n\n")[0].split())


def _arguments(name: str, function: _Function) -> tuple[type[msgspec.Struct], dict[str, Any]]:
    """A Struct that checks the arguments of a function, and its JSON schema, which stands alone."""
    try:
        parameters = inspect.signature(function).parameters
        hints = typing.get_type_hints(_definition(function), include_extras=True)
        fields = [_field(parameter, hints.get(parameter.name, Any)) for parameter in parameters.values()]
        struct = msgspec.defstruct("Arguments", fields, forbid_unknown_fields=True, kw_only=True)
        (reference,), definitions = msgspec.json.schema_components((struct,), ref_template=_DEFINITIONS + "{name}")
    except (TypeError, ValueError, NameError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"tools.{name}: the signature cannot be described: {error}") from error
    schema = definitions.pop(reference["$ref"].removeprefix(_DEFINITIONS))
    schema.pop("title", None)
    for parameter in parameters.values():
        if parameter.default is not parameter.empty:
            with suppress(TypeError, ValueError):
                default = msgspec.to_builtins(parameter.default)
                check_json(default, MAX_JSON_DEPTH)
                schema["properties"][parameter.name]["default"] = default
    return struct, schema | ({"$defs": definitions} if definitions else {})


def _field(parameter: inspect.Parameter, hint: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    """A required field, or an optional one whose value is never read: the function's own default stands."""
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"the parameter {parameter} cannot be given by name")
    if parameter.default is parameter.empty:
        return parameter.name, hint
    return parameter.name, hint, msgspec.field(default_factory=lambda: None)
