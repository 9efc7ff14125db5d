import asyncio
import contextvars
import functools
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
import pytest
from structlog.testing import capture_logs

from sessile.config import ConfigError, ToolConfig
from sessile.domain import overrides
from sessile.ports import ToolContext, ToolFault
from sessile.rows import SessionRow
from sessile.tools import python
from sessile.tools.python import PythonTool, load
from sessile.tools.registry import ToolRegistry
from sessile.wire.limits import MAX_TOOL_OUTPUT_BYTES

REQUEST = contextvars.ContextVar("REQUEST", default="none")


class Place(msgspec.Struct):
    city: str


@dataclass
class Report:
    degrees: float


def weather(
    place: Place, days: Annotated[int, msgspec.Meta(ge=1, description="How many days.")] = 1, *, unit: str = "C"
) -> Report:
    """The weather of
    a place.

    More about it.
    """
    return Report(degrees=20.0 + days)


def tool(function: Callable[..., Any], seconds: float = 30) -> PythonTool:
    return PythonTool("t", ToolConfig(function="x:y", timeout_seconds=seconds), function)


async def fault(function: Callable[..., Any], seconds: float = 30, **arguments: Any) -> ToolFault:
    with pytest.raises(ToolFault) as caught:
        await tool(function, seconds).run(arguments)
    return caught.value


@pytest.fixture
def module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> str:
        (tmp_path / "tools_under_test.py").write_text(source)
        return "tools_under_test"

    sys.modules.pop("tools_under_test", None)
    yield write
    sys.modules.pop("tools_under_test", None)


def test_schema_stands_alone_and_says_what_the_function_says() -> None:
    weather_tool = tool(weather)
    assert weather_tool.description == "The weather of a place."
    assert weather_tool.parameters == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place"},
            "days": {"type": "integer", "minimum": 1, "description": "How many days.", "default": 1},
            "unit": {"type": "string", "default": "C"},
        },
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "title": "Place",
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            }
        },
    }


def test_a_type_named_like_the_arguments_is_kept_apart() -> None:
    Arguments = msgspec.defstruct("Arguments", [("x", int)])

    def nested(inner: Arguments) -> None: ...  # type: ignore[valid-type]

    nested.__annotations__["inner"] = Arguments
    parameters = tool(nested).parameters
    assert list(parameters["properties"]) == ["inner"]
    assert parameters["properties"]["inner"]["$ref"].removeprefix("#/$defs/") in parameters["$defs"]


def test_unannotated_parameters_take_anything() -> None:
    def anything(x, y=None):  # type: ignore[no-untyped-def]
        return x

    assert tool(anything).parameters["properties"] == {"x": {}, "y": {"default": None}}


async def test_arguments_are_converted_and_results_are_plain_json() -> None:
    assert await tool(weather).run({"place": {"city": "Oslo"}, "days": 2}) == {"degrees": 22.0}


async def test_defaults_are_the_functions_own() -> None:
    marker = object()

    def function(x: Any = marker) -> bool:
        return x is marker

    assert await tool(function).run({}) == {"result": True}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "place"),
        ({"place": {"city": 3}}, "place.city"),
        ({"place": {"city": "Oslo"}, "days": 0}, "days"),
        ({"place": {"city": "Oslo"}, "wind": True}, "wind"),
    ],
)
async def test_wrong_arguments_are_named(arguments: dict[str, Any], named: str) -> None:
    error = await fault(weather, **arguments)
    assert error.code == "tool_arguments_invalid"
    assert error.message.startswith(f"{named}: ")


async def test_plain_functions_leave_the_loop_thread_and_keep_the_context() -> None:
    def function() -> list[Any]:
        return [threading.current_thread() is threading.main_thread(), REQUEST.get()]

    REQUEST.set("r1")
    assert await tool(function).run({}) == {"result": [False, "r1"]}


async def test_coroutine_functions_stay_on_the_loop() -> None:
    loop = asyncio.get_running_loop()

    async def function() -> bool:
        return asyncio.get_running_loop() is loop

    assert await tool(function).run({}) == {"result": True}
    assert await tool(functools.partial(function)).run({}) == {"result": True}


async def test_a_coroutine_from_a_plain_function_runs_on_the_loop() -> None:
    async def inner() -> int:
        await asyncio.sleep(0)
        return 7

    assert await tool(lambda: inner()).run({}) == {"result": 7}


async def test_callable_objects() -> None:
    class Adder:
        async def __call__(self, a: int, b: int) -> int:
            """Add."""
            return a + b

    adder = tool(Adder())
    assert adder.description == "Add."
    assert await adder.run({"a": 1, "b": 2}) == {"result": 3}


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("bad \ud800 luck"), "ValueError: bad ? luck"),
        (KeyError(), "KeyError"),
        (TimeoutError("inside"), "TimeoutError: inside"),
        (StopIteration(), "StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "CancelledError"),
        (Unprintable(), "Unprintable"),
        (ValueError("x" * 5000), "ValueError: " + "x" * 988),
    ],
)
async def test_whatever_is_raised_is_data(error: BaseException, message: str) -> None:
    def plain() -> None:
        raise error

    raised = await fault(plain)
    assert (raised.code, raised.message) == ("tool_failed", message)

    async def coroutine() -> None:
        raise error

    if not isinstance(error, StopIteration):  # the language itself makes a RuntimeError of it
        raised = await fault(coroutine)
        assert (raised.code, raised.message) == ("tool_failed", message)


async def test_a_coroutine_that_cancels_its_own_task_fails() -> None:
    async def function() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert (await fault(function)).code == "tool_failed"


def endless() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(70):
        value = [value]
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: float("nan"),
        lambda: {"x": [float("inf")]},
        lambda: {1: "a"},
        lambda: {"x": {None: 1}},
        lambda: "\ud800",
        lambda: {"\udfff": 1},
        lambda: 2**64,
        lambda: object(),
        endless,
        deep,
        lambda: "x" * (MAX_TOOL_OUTPUT_BYTES + 1),
    ],
)
async def test_results_that_are_not_json_fail(make: Callable[[], Any]) -> None:
    error = await fault(lambda: make())
    assert error.code == "tool_failed"
    assert "result of the tool" in error.message

    async def coroutine() -> Any:
        return make()

    assert (await fault(coroutine)).code == "tool_failed"


async def test_a_result_is_a_copy() -> None:
    shared: dict[str, Any] = {"items": []}
    result = await tool(lambda: shared).run({})
    shared["items"].append(1)
    assert result == {"items": []}


async def test_a_plain_function_past_its_time_is_abandoned() -> None:
    release, ended = threading.Event(), threading.Event()

    def function() -> int:
        release.wait()
        ended.set()
        return 1

    hung = tool(function, seconds=0.01)
    with pytest.raises(ToolFault) as caught:
        await hung.run({})
    assert caught.value.code == "tool_timeout"
    release.set()
    ended.wait()


async def test_hung_threads_hold_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "MAX_THREADS", 1)
    release, began = threading.Event(), threading.Event()
    started = []

    def function() -> None:
        started.append(1)
        began.set()
        release.wait()

    hung = tool(function, seconds=0.01)
    for _ in range(3):
        with pytest.raises(ToolFault):
            await hung.run({})
    began.wait()
    assert len(started) == 1
    release.set()
    hung._timeout = 30
    assert await hung.run({}) == {"result": None}


async def test_a_coroutine_past_its_time_is_cancelled() -> None:
    cleaned = []

    async def function() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    assert (await fault(function, seconds=0.01)).code == "tool_timeout"
    assert cleaned == [1]


async def test_a_coroutine_that_ignores_its_cancelling_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(python, "GRACE_SECONDS", 0)
    release = asyncio.Event()

    async def function() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    assert (await fault(function, seconds=0.01)).code == "tool_timeout"
    assert len(python._left) == 1
    release.set()
    await asyncio.gather(*python._left, return_exceptions=True)
    await asyncio.sleep(0)
    assert not python._left


async def test_cancelling_the_caller_cancels_the_coroutine() -> None:
    started, cleaned = asyncio.Event(), []

    async def function() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(1)

    task = asyncio.create_task(tool(function).run({}))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned == [1]


def test_a_hung_thread_does_not_keep_the_interpreter() -> None:
    program = """
        import asyncio, threading
        from sessile.config import ToolConfig
        from sessile.ports import ToolFault
        from sessile.tools.python import PythonTool

        async def main():
            config = ToolConfig(function="x:y", timeout_seconds=0.01)
            hang = PythonTool("hang", config, lambda: threading.Event().wait())
            try:
                await hang.run({})
            except ToolFault as fault:
                print(fault.code)

        asyncio.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "tool_timeout\n", "")


def positional(a: int, /) -> None: ...


async def generator() -> AsyncIterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function",
    [lambda *args: None, lambda **options: None, positional],
)
def test_signatures_that_cannot_be_described(function: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"tools\.t: .*cannot be given by name"):
        tool(function)


def test_types_that_cannot_be_described() -> None:
    def custom(x: threading.Thread) -> None: ...

    with pytest.raises(ConfigError, match="cannot be described"):
        tool(custom)

    def unresolved(x: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match="Nowhere"):
        tool(unresolved)


async def test_an_async_generator_has_no_json_result() -> None:
    assert (await fault(generator)).code == "tool_failed"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("nothing", "not of the form"),
        ("a b:c", "not of the form"),
        ("os:", "not of the form"),
        ("no_such_module_here:f", "No module named"),
        ("os:no_such_attribute", "os has no no_such_attribute"),
        ("os:sep", "is not a function"),
        ("collections:OrderedDict", "is not a function"),
    ],
)
def test_paths_that_name_no_function(path: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        load("bad", ToolConfig(function=path))
    assert "tools.bad" in str(caught.value)


@pytest.mark.parametrize("source", ["1 / 0", "raise SystemExit(2)", "def f(:"])
def test_modules_that_break_when_imported(source: str, module: Callable[[str], str]) -> None:
    with pytest.raises(ConfigError, match="cannot import tools_under_test"):
        load("bad", ToolConfig(function=f"{module(source)}:f"))


async def test_registry(module: Callable[[str], str]) -> None:
    name = module("class Calc:\n    @staticmethod\n    def add(a: int, b: int = 1) -> int:\n        return a + b\n")
    config = ToolConfig(function=f"{name}:Calc.add", description="Adds.", idempotent=True)
    registry = ToolRegistry({"plus": config, "add": config})
    assert registry.names() == ["add", "plus"]
    assert registry.of("minus", {"type": "lambda"}) is None
    assert registry.of("add", {"type": "web_get"}) is None
    plus = registry.of("sum", {"type": "lambda", "tool_id": "tol_plus"})
    assert plus is not None
    assert plus.name == "plus"
    add = registry.of("add", {"type": "lambda"})
    assert add is not None
    assert (add.name, add.description, add.idempotent) == ("add", "Adds.", True)
    context = ToolContext(session=cast(SessionRow, None), turn_id="trn_1", tool_call_id="c1", add_artifact=print)
    assert await add.run({"a": 1}, context) == {"result": 2}


def test_a_factory_makes_the_tools_of_its_type() -> None:
    seen: list[Mapping[str, Any]] = []

    def factory(configuration: Mapping[str, Any]) -> PythonTool:
        seen.append(configuration)
        return tool(lambda: None)

    registry = ToolRegistry({}, factories={"artifact_read": factory})
    made = registry.of("read", {"type": "artifact_read", "enabled": True})
    assert made is not None
    assert seen == [{"type": "artifact_read", "enabled": True}]
    assert set(registry.kinds()) == {"artifact_read"}
    assert registry.names() == []


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_neither_the_log_nor_the_error_has_a_secret_of_the_call(kind: str) -> None:
    secret = "s3cret\nof two lines"

    def plain() -> None:
        raise KeyError("x" * (python.MAX_MESSAGE_CHARS - 15) + secret)

    async def on_loop() -> None:
        plain()

    token = overrides.IN_USE.set(frozenset({secret}))
    try:
        with capture_logs() as logged:
            failed = await fault(plain if kind == "plain" else on_loop)
    finally:
        overrides.IN_USE.reset(token)
    assert failed.message.endswith("x***'")
    assert [entry["event"] for entry in logged] == ["tool_failed"]
    assert "x***" in logged[0]["exception"]
    assert "s3cret" not in str(logged)
