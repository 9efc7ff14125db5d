"""The built-in demo model: offline, deterministic, without intelligence. It says so in every answer."""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import msgspec

from sessile.domain.messages import AssistantMessage, Message, ToolCall, ToolMessage, ToolSpec, UserMessage
from sessile.models.demo_arguments import fill_arguments, has_value_for
from sessile.models.openai_wire import call_ids, without_surrogates
from sessile.ports import ModelChunk, ModelRequest, ModelUsage, TextDelta, ThinkingDelta

WORD_DELAY = 0.02
MAX_WORD_DELAY = 5.0
MAX_QUOTE_CHARS = 600
CHARS_PER_TOKEN = 4
_CONFESSION = "I am Sessile's demo model: I run offline and have no intelligence, I only follow simple rules."
_WORD = re.compile(r"[^\W_]{3,}")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_PIECE = re.compile(r"\s*\S+|\s+$")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "about and any are can could does for from get give has have her him his how its let may not our out please "
        "return returns say she show some tell than that the them then there they this use user was what when where "
        "which who why will with would you your"
    )
)


class Demo:
    """A Model that needs no key and no network.

    It calls a tool when the user's words meet the tool's name or description, and quotes what the tool gave back.
    `word_delay` is the pause before each word in seconds; the agent's parameter `word_delay` overrides it. Its usage is
    an estimate: four characters a token.
    """

    def __init__(self, name: str = "demo", *, context_window: int = 128_000, word_delay: float = WORD_DELAY) -> None:
        self._name = name
        self._context_window = context_window
        self._word_delay = word_delay

    @property
    def name(self) -> str:
        """The name agents use."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens the model can read and write in one call: as configured, nothing here depends on it."""
        return self._context_window

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Answer as the Model port says. It never fails."""
        thinking, answer, call = _decide(request)
        delay = self._delay(request.parameters)
        for kind, text in ((ThinkingDelta, thinking), (TextDelta, answer)):
            for piece in _pieces(text):
                if delay > 0:
                    await asyncio.sleep(delay)
                yield kind(piece)
        written = len(thinking) + len(answer)
        if call is not None:
            yield call
            written += len(call.name) + len(call.arguments)
        yield ModelUsage(
            input_tokens=_tokens(_read_chars(request)),
            output_tokens=_tokens(written),
            reasoning_tokens=_tokens(len(thinking)),
        )

    def _delay(self, parameters: dict[str, Any]) -> float:
        value = parameters.get("word_delay")
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_WORD_DELAY:
            return float(value)
        return self._word_delay


def _decide(request: ModelRequest) -> tuple[str, str, ToolCall | None]:
    """What to think, what to say, and which tool to call, if any."""
    thinking, answer, call = _in_words(request)
    if request.output is None or call is not None:
        return thinking, answer, call
    said = [message.content for message in request.messages if isinstance(message, UserMessage)]
    content = fill_arguments(request.output.schema, without_surrogates(said[-1] if said else ""))
    return f"{thinking} I fill in the form {request.output.name}.", msgspec.json.encode(content).decode(), None


def _in_words(request: ModelRequest) -> tuple[str, str, ToolCall | None]:
    match request.messages[-1:]:
        case [ToolMessage()]:
            return _after_tools(request.messages)
        case [UserMessage(content=content)]:
            return _after_user(without_surrogates(content), request)
    thinking = "Nobody has asked me anything, so I greet."
    return thinking, f"Hello! {_CONFESSION}", None


def _after_user(text: str, request: ModelRequest) -> tuple[str, str, ToolCall | None]:
    thinking = "I look for a tool that shares a word with what the user wrote."
    choice = _choose_tool(text, request.tools)
    if choice is not None:
        tool, reason = choice
        arguments = msgspec.json.encode(fill_arguments(tool.parameters, text)).decode()
        # The number makes the id new in this conversation and the same in every run.
        call = ToolCall(f"call_demo_{len(call_ids(request.messages)) + 1}", tool.name, arguments)
        return f"{thinking} {reason} I call {tool.name}, without understanding anything.", "", call
    offer = ""
    if request.tools:
        names = ", ".join(tool.name for tool in request.tools)
        offer = f" I can call these tools when you use a word of their description: {names}."
    answer = f"Hello! You wrote: “{_quote(text)}”. {_CONFESSION}{offer} Choose a real model to get a real answer."
    return f"{thinking} There is none, so I answer with a friendly sentence.", answer, None


def _after_tools(messages: list[Message]) -> tuple[str, str, None]:
    outputs: list[ToolMessage] = []
    for message in reversed(messages):
        if not isinstance(message, ToolMessage):
            break
        outputs.append(message)
    outputs.reverse()
    said = " ".join(f"The tool {output.name} answered: {_quote(_readable(output.content))}." for output in outputs)
    thinking = f"There are {len(outputs)} tool outputs. I repeat what they say."
    if len(outputs) == 1:
        thinking = f"The tool {outputs[0].name} gave an output. I repeat what it says."
    return thinking, f"{said} {_CONFESSION}", None


def _choose_tool(text: str, tools: list[ToolSpec]) -> tuple[ToolSpec, str] | None:
    """The tool that shares most words with the text (its name counts double), else the first one a value would suit."""
    asked = _words(text)
    best: tuple[int, ToolSpec, str] | None = None
    for tool in tools:
        in_name = asked & _words(tool.name)
        in_description = asked & _words(tool.description)
        score = 2 * len(in_name) + len(in_description - in_name)
        if score and (best is None or score > best[0]):
            best = score, tool, min(in_name or in_description)
    if best is not None:
        return best[1], f"The word “{best[2]}” also describes {best[1].name}."
    for tool in tools:
        if has_value_for(tool.parameters, text):
            return tool, f"The text holds something that looks like an argument of {tool.name}."
    return None


def _words(text: str) -> set[str]:
    """Lower-case words of three letters and more without the commonest ones; a plural is the same as its singular."""
    words = set()
    for word in _WORD.findall(_CAMEL.sub(" ", text).lower()):
        if word not in _STOP_WORDS:
            words.add(word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word)
    return words


def _readable(output: str) -> str:
    """`name: value, …` for a flat JSON object, else the text as it is."""
    try:
        value = msgspec.json.decode(without_surrogates(output))
    except msgspec.DecodeError:
        return without_surrogates(output)
    if isinstance(value, dict) and value and not any(isinstance(item, dict | list) for item in value.values()):
        return ", ".join(f"{name}: {_scalar(item)}" for name, item in value.items())
    return without_surrogates(output)


def _scalar(value: str | int | float | bool | None) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _quote(text: str) -> str:
    text = text.strip()
    return text if len(text) <= MAX_QUOTE_CHARS else text[: MAX_QUOTE_CHARS - 1] + "…"


def _pieces(text: str) -> Iterator[str]:
    return (match[0] for match in _PIECE.finditer(text))


def _read_chars(request: ModelRequest) -> int:
    chars = sum(len(message.content) for message in request.messages)
    for message in request.messages:
        if isinstance(message, AssistantMessage):
            chars += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
    return chars + sum(len(msgspec.json.encode(tool)) for tool in request.tools)


def _tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)
