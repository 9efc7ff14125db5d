"""The OpenAI-compatible chat-completions wire as data: request bodies out, a streamed answer in. It does no I/O.

Providers differ in small ways; every allowance for that is made here.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any, Literal

import msgspec
from msgspec import Struct

from sessile.domain.messages import (
    AssistantMessage,
    Message,
    OutputSchema,
    SystemMessage,
    ToolCall,
    ToolMessage,
    ToolSpec,
    UserMessage,
)
from sessile.models.openai_faults import protocol_fault, stream_fault
from sessile.ports import ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.wire import ids
from sessile.wire.limits import MAX_MODEL_OUTPUT_CHARS, MAX_TOOL_ARGUMENT_BYTES, MAX_TOOL_CALLS_PER_ANSWER

Delta = ThinkingDelta | TextDelta
ResponseFormat = Literal["json_schema", "json_object", "none"]
"""How a provider can be held to a JSON schema, if it can."""

MAX_LINE_BYTES = 8 * MAX_MODEL_OUTPUT_CHARS
MAX_CALL_ID_CHARS = 200
_MAX_TOKENS = 10**12
_PROVIDER_FAILED = frozenset({"error", "insufficient_system_resource"})
_ONLY_WITH_TOOLS = ("tool_choice", "parallel_tool_calls")


class _Function(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _ToolCallPart(Struct):
    index: int | None = None
    id: str | int | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | list[Any] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: str | None = None
    tool_calls: list[_ToolCallPart] | None = None


class _CachedTokens(Struct):
    cached_tokens: int | None = None


class _ReasoningTokens(Struct):
    reasoning_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_cache_hit_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None


class _Choice(Struct):
    index: int | None = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Chunk(Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None
    message: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


def encode_request(request: ModelRequest, model: str, structured_output: ResponseFormat = "json_schema") -> bytes:
    """The JSON body of a streaming call. The agent's parameters cannot override what the call itself sets."""
    body = dict(request.parameters)
    body.pop("tools", None)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
    else:
        for name in _ONLY_WITH_TOOLS:
            body.pop(name, None)
    if request.output is not None:
        body.pop("response_format", None)
        body |= _response_format(request.output, structured_output)
    body["model"] = model
    body["messages"] = [_message(message) for message in request.messages]
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return without_surrogates(json.dumps(body, ensure_ascii=False)).encode()


def call_ids(messages: list[Message]) -> set[str]:
    """The ids of all tool calls in a conversation."""
    return {call.id for message in messages if isinstance(message, AssistantMessage) for call in message.tool_calls}


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each lone surrogate, which UTF-8 cannot carry."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _response_format(output: OutputSchema, kind: ResponseFormat) -> dict[str, Any]:
    if kind != "json_schema":
        return {} if kind == "none" else {"response_format": {"type": kind}}
    spec: dict[str, Any] = {"name": output.name, "schema": output.schema}
    spec |= {} if output.description is None else {"description": output.description}
    spec |= {} if output.strict is None else {"strict": output.strict}
    return {"response_format": {"type": kind, "json_schema": spec}}


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _message(message: Message) -> dict[str, Any]:
    match message:
        case SystemMessage(content=content):
            return {"role": "system", "content": content}
        case UserMessage(content=content):
            return {"role": "user", "content": content}
        case ToolMessage(tool_call_id=call_id, content=content):
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        case AssistantMessage(content=content, tool_calls=()):
            return {"role": "assistant", "content": content}
        case AssistantMessage(content=content, tool_calls=calls):
            return {"role": "assistant", "content": content or None, "tool_calls": [_tool_call(call) for call in calls]}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = call.arguments
    if not _is_object(arguments):
        # Many servers parse the arguments of earlier calls and refuse the whole conversation when they are not JSON.
        arguments = json.dumps({"invalid_arguments": arguments}) if arguments.strip() else "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False


class Lines:
    """Cuts bytes that arrive in any pieces into lines ended by LF, CRLF or CR, without the line ends."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that are complete now. Raises ModelFault for a line of more than MAX_LINE_BYTES."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r")
        if b"\n" not in data and b"\r" not in data:
            self._rest += data
            if len(self._rest) > MAX_LINE_BYTES:
                raise protocol_fault("The provider sent a line that is too long.", retryable=False)
            return []
        if self._rest:
            data = bytes(self._rest) + data
            self._rest.clear()
        lines = data.splitlines()
        if not data.endswith((b"\n", b"\r")):
            self._rest += lines.pop()
        return lines


class _Call:
    def __init__(self, id: str) -> None:
        self.id = id
        self.name = ""
        self.arguments: list[str] = []
        self.size = 0

    def add(self, text: str) -> None:
        self.size += len(text.encode())
        if self.size > MAX_TOOL_ARGUMENT_BYTES:
            raise protocol_fault("The model wrote tool arguments that are too long.", retryable=False)
        self.arguments.append(text)

    def is_whole(self) -> bool:
        return bool(self.arguments) and _is_object("".join(self.arguments))


class _Calls:
    """Puts tool calls together from fragments: by index where there is one, else by id and name."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def add(self, part: _ToolCallPart) -> None:
        id = "" if part.id is None else str(part.id)
        function = part.function or _Function()
        call = self._by_index.get(part.index) if part.index is not None else self._last()
        if call is None or self._starts_another(call, part.index, id, function.name):
            call = self._start(part.index, id)
        call.id = call.id or id
        call.name = call.name or function.name or ""
        match function.arguments:
            case str() as text:
                call.add(text)
            case dict() as value:
                call.add(json.dumps(value, ensure_ascii=False))

    def finish(self, used_ids: Collection[str]) -> list[ToolCall]:
        """Every call whole, with ids that are new in the conversation. Raises ModelFault for a call without a name."""
        taken = set(used_ids)
        whole = []
        for call in self._calls:
            if not call.name:
                raise protocol_fault("The model called a tool without naming it.", retryable=True)
            if not call.id or call.id in taken or len(call.id) > MAX_CALL_ID_CHARS:
                call.id = ids.tool_call_id()
            taken.add(call.id)
            arguments = "".join(call.arguments)
            whole.append(ToolCall(call.id, call.name, arguments if arguments.strip() else "{}"))
        return whole

    def _last(self) -> _Call | None:
        return self._calls[-1] if self._calls else None

    def _start(self, index: int | None, id: str) -> _Call:
        if len(self._calls) == MAX_TOOL_CALLS_PER_ANSWER:
            raise protocol_fault("The model called too many tools in one answer.", retryable=False)
        call = _Call(id)
        self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    @staticmethod
    def _starts_another(call: _Call, index: int | None, id: str, name: str | None) -> bool:
        """Whether a fragment that would continue `call` is the head of another one. A head always has a name."""
        if not name or not call.name:
            return False
        if id and call.id and id != call.id:
            return True
        return index is None and call.is_whole()


class Answer:
    """A streamed answer, fed with bytes as they come. `used_ids` are the tool call ids that are taken already."""

    def __init__(self, used_ids: Collection[str] = (), secret: str | None = None) -> None:
        self.done = False
        """Whether the provider said that nothing more follows."""
        self.finish_reason: str | None = None
        self._used_ids = used_ids
        self._secret = secret
        self._lines = Lines()
        self._pieces: list[bytes] = []
        self._pieces_size = 0
        self._chars = 0
        self._has_choice = False
        self._has_text = False
        self._calls = _Calls()
        self._usage: _Usage | None = None

    def feed(self, data: bytes) -> Iterator[Delta]:
        """The deltas in a piece of an event stream. Raises ModelFault, after the deltas that came before the fault."""
        for line in self._lines.feed(data):
            deltas: list[Delta] = []
            self._take_line(line, deltas)
            yield from deltas
            if self.done:
                break

    def feed_eof(self) -> Iterator[Delta]:
        """The deltas in a last line that no line end followed."""
        return iter(()) if self.done else self.feed(b"\n")

    def feed_whole(self, body: bytes) -> list[Delta]:
        """The deltas of an answer that came as one JSON object instead of a stream."""
        deltas: list[Delta] = []
        chunk = self._decode(body)
        if chunk is None:
            raise protocol_fault("The provider's answer is not JSON.", retryable=True)
        self._take(chunk, deltas)
        self.done = True
        return deltas

    def finish(self) -> list[ToolCall | ModelUsage]:
        """Tool calls and usage, once everything was fed. Raises ModelFault when the answer is not complete."""
        if self.finish_reason is None and not (self.done and self._has_choice):
            raise protocol_fault("The provider's answer ended in the middle.", retryable=True)
        if self.finish_reason in _PROVIDER_FAILED:
            raise ModelFault("model_unavailable", "The provider failed in the middle of its answer.", retryable=True)
        calls = self._calls.finish(self._used_ids)
        if not calls and not self._has_text:
            if self.finish_reason == "content_filter":
                raise ModelFault(
                    "model_rejected", "The provider's content filter withheld the answer.", retryable=False
                )
            if self.finish_reason == "length":
                raise ModelFault(
                    "model_rejected", "The model reached its output limit before it answered.", retryable=False
                )
        return [*calls, *([] if self._usage is None else [_model_usage(self._usage)])]

    def _take_line(self, line: bytes, deltas: list[Delta]) -> None:
        if not line.startswith(b"data:"):
            if not line and self._pieces:
                self._take_pieces(deltas)
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
        elif self._pieces:
            self._add_piece(data)
        elif data:
            chunk = self._decode(data)
            if chunk is None:
                self._add_piece(data)
            else:
                self._take(chunk, deltas)

    def _add_piece(self, data: bytes) -> None:
        """Keep a part of an event whose JSON goes over several data lines; an empty line will end the event."""
        self._pieces.append(data)
        self._pieces_size += len(data)
        if self._pieces_size > MAX_LINE_BYTES:
            raise protocol_fault("The provider sent an event that is too long.", retryable=False)

    def _take_pieces(self, deltas: list[Delta]) -> None:
        chunk = self._decode(b"\n".join(self._pieces))
        if chunk is None:
            raise protocol_fault("The provider sent something that is not JSON.", retryable=True)
        self._pieces, self._pieces_size = [], 0
        self._take(chunk, deltas)

    @staticmethod
    def _decode(data: bytes) -> _Chunk | None:
        """The chunk, or None for what is not JSON. Raises ModelFault for JSON of another shape."""
        try:
            return _decode_chunk(data)
        except msgspec.ValidationError as error:
            raise protocol_fault(f"The provider sent a chunk of an unknown shape: {error}", retryable=True) from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        try:
            value = json.loads(data.decode("utf-8", "replace"))
            text = without_surrogates(json.dumps(value, ensure_ascii=False))
            return _decode_chunk(text)
        except msgspec.ValidationError as error:
            raise protocol_fault(f"The provider sent a chunk of an unknown shape: {error}", retryable=True) from None
        except (ValueError, RecursionError):
            return None

    def _take(self, chunk: _Chunk, deltas: list[Delta]) -> None:
        if chunk.error:
            raise stream_fault(chunk.error, self._secret)
        if chunk.object == "error":
            raise stream_fault({"message": chunk.message}, self._secret)
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices or ():
            if choice.index:
                continue
            self._has_choice = True
            if choice.usage is not None:
                self._usage = choice.usage
            delta = choice.delta or choice.message
            if delta is not None:
                self._take_delta(delta, deltas)
            if choice.finish_reason:
                self.finish_reason = choice.finish_reason

    def _take_delta(self, delta: _Delta, deltas: list[Delta]) -> None:
        thinking = delta.reasoning_content or delta.reasoning
        if thinking and isinstance(thinking, str):
            self._count(thinking)
            deltas.append(ThinkingDelta(thinking))
        content = delta.content
        if isinstance(content, list):
            self._take_parts(content, deltas)
        elif content:
            self._take_text(content, deltas)
        if delta.refusal:
            self._take_text(delta.refusal, deltas)
        for part in delta.tool_calls or ():
            self._calls.add(part)

    def _take_parts(self, parts: list[Any], deltas: list[Delta]) -> None:
        """Content as a list of typed parts, as Mistral's reasoning models stream it."""
        for part in parts:
            match part:
                case {"type": "text", "text": str(text)} if text:
                    self._take_text(text, deltas)
                case {"type": "thinking", "thinking": list(inner)}:
                    for piece in inner:
                        thought = piece.get("text") if isinstance(piece, dict) else None
                        if thought and isinstance(thought, str):
                            self._count(thought)
                            deltas.append(ThinkingDelta(thought))

    def _take_text(self, text: str, deltas: list[Delta]) -> None:
        self._count(text)
        self._has_text = True
        deltas.append(TextDelta(text))

    def _count(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > MAX_MODEL_OUTPUT_CHARS:
            raise protocol_fault("The model's answer is too long.", retryable=False)


def _model_usage(usage: _Usage) -> ModelUsage:
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    reasoning = usage.completion_tokens_details.reasoning_tokens if usage.completion_tokens_details else None
    return ModelUsage(
        input_tokens=_tokens(usage.prompt_tokens),
        output_tokens=_tokens(usage.completion_tokens),
        cached_tokens=_tokens(cached or usage.prompt_cache_hit_tokens),
        reasoning_tokens=_tokens(reasoning),
    )


def _tokens(said: int | None) -> int:
    """What a provider says it has counted, as a number that can be added up everywhere."""
    return min(max(said or 0, 0), _MAX_TOKENS)
