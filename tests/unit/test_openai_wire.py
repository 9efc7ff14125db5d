"""The answer parser, without a network."""

import json
from typing import Any

import pytest

from sessile.domain.messages import AssistantMessage, ToolCall
from sessile.models import openai_wire
from sessile.models.openai_wire import Answer, Lines, encode_request
from sessile.ports import ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.wire.limits import MAX_MODEL_OUTPUT_CHARS, MAX_TOOL_ARGUMENT_BYTES, MAX_TOOL_CALLS_PER_ANSWER


def event(delta: dict[str, Any], reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice], **more}, ensure_ascii=False).encode() + b"\n\n"


def parts(*calls: dict[str, Any]) -> bytes:
    return event({"tool_calls": list(calls)})


def read(*data: bytes, used_ids: tuple[str, ...] = ()) -> list[Any]:
    answer = Answer(used_ids)
    chunks: list[Any] = [delta for piece in data for delta in answer.feed(piece)]
    return [*chunks, *answer.feed_eof(), *answer.finish()]


def fault(*data: bytes) -> ModelFault:
    with pytest.raises(ModelFault) as caught:
        read(*data)
    return caught.value


STOP = event({}, "stop")
DONE = b"data: [DONE]\n\n"
STREAM = (
    event({"role": "assistant", "content": ""})
    + event({"reasoning_content": "Hm, "})
    + event({"content": "Grüße 👋"})
    + STOP
    + b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}\n\n'
    + DONE
)
EXPECTED = [ThinkingDelta("Hm, "), TextDelta("Grüße 👋"), ModelUsage(9, 2)]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_a_stream_cut_anywhere(line_end: bytes) -> None:
    stream = STREAM.replace(b"\n", line_end)
    for at in range(len(stream) + 1):
        assert read(stream[:at], stream[at:]) == EXPECTED
    assert read(*(stream[at : at + 1] for at in range(len(stream)))) == EXPECTED


def test_what_came_before_a_fault_in_the_same_piece_is_not_lost() -> None:
    deltas = Answer().feed(event({"content": "Half"}) + b"data: {not json\n\n")
    assert next(deltas) == TextDelta("Half")
    with pytest.raises(ModelFault):
        next(deltas)


def test_comments_fields_and_no_space_after_the_colon() -> None:
    stream = b": hello\n\nevent: message\nid: 1\nretry: 5\n" + STREAM.replace(b"data: ", b"data:")
    assert read(stream) == EXPECTED


def test_no_line_end_at_the_end() -> None:
    assert read(STREAM.removesuffix(b"\n\n")) == EXPECTED
    assert read(event({"content": "Hi."}, "stop").rstrip()) == [TextDelta("Hi.")]


def test_events_without_empty_lines_between() -> None:
    assert read(STREAM.replace(b"\n\n", b"\n")) == EXPECTED


def test_json_over_several_data_lines() -> None:
    stream = b'data: {"choices": [\ndata: {"delta": {"content": "Hi."},\ndata: "finish_reason": "stop"}]}\n\n'
    assert read(stream) == [TextDelta("Hi.")]


def test_nothing_after_done_is_read() -> None:
    assert read(STREAM + b"data: junk\n\n") == EXPECTED


def test_done_without_finish_reason_is_complete_when_there_was_an_answer() -> None:
    assert read(event({"content": "Hi."}), DONE) == [TextDelta("Hi.")]
    assert fault(DONE).code == "model_protocol"
    assert fault(b"").retryable


@pytest.mark.parametrize("junk", [b"data: what?\n\n", b"data: {\n\n", b'data: {"choices": 7}\n\n', b"data: []\n\n"])
def test_junk(junk: bytes) -> None:
    assert fault(event({"content": "Hi."}), junk).code == "model_protocol"


def test_bytes_that_are_not_utf8_and_lone_surrogates() -> None:
    broken = event({"content": "a~b"}, "stop").replace(b"~", b"\xff")
    assert read(broken) == [TextDelta("a\ufffdb")]
    assert read(event({"content": "a~b"}, "stop").replace(b"~", rb"\ud83d")) == [TextDelta("a\ufffdb")]


def test_reasoning_under_its_other_name_and_refusals() -> None:
    stream = event({"reasoning": "Hm."}) + event({"content": None, "refusal": "No."}) + STOP
    assert read(stream) == [ThinkingDelta("Hm."), TextDelta("No.")]


def test_content_in_typed_parts() -> None:
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}, 7]}
    assert read(event({"content": [thinking, {"type": "text", "text": "Hi."}, 7]}), STOP) == [
        ThinkingDelta("Hm."),
        TextDelta("Hi."),
    ]


def test_other_choices_are_not_read() -> None:
    other = b'data: {"choices":[{"index":1,"delta":{"content":"No"},"finish_reason":"stop"}]}\n\n'
    assert read(event({"content": "Hi."}), other, STOP) == [TextDelta("Hi.")]


def test_usage_that_makes_no_sense_can_be_added_up_all_the_same() -> None:
    usage = {
        "prompt_tokens": -5,
        "completion_tokens": 10**30,
        "prompt_tokens_details": {"cached_tokens": -1},
        "completion_tokens_details": {"reasoning_tokens": -(10**18)},
    }
    assert read(event({"content": "Hi."}, "stop", usage=usage)) == [TextDelta("Hi."), ModelUsage(0, 10**12, 0, 0)]


def test_usage_in_the_last_choice_chunk_and_its_details() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    assert read(event({"content": "Hi."}, "stop", usage=usage)) == [TextDelta("Hi."), ModelUsage(10, 5, 4, 3)]
    inside = (
        b'data: {"choices":[{"delta":{},"finish_reason":"stop","usage":{"prompt_tokens":1,"completion_tokens":null}}]}'
    )
    assert read(inside) == [ModelUsage(1, 0)]
    cached = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 8, "prompt_tokens_details": None}
    assert read(event({}, "stop", usage=cached)) == [ModelUsage(10, 5, 8)]


def test_parallel_calls_in_mixed_fragments() -> None:
    stream = (
        parts({"index": 0, "id": "x", "function": {"name": "a", "arguments": ""}})
        + parts({"index": 1, "id": "y", "function": {"name": "b", "arguments": '{"n"'}})
        + parts({"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": ":2}"}})
        + STOP
    )
    assert read(stream) == [ToolCall("x", "a", "{}"), ToolCall("y", "b", '{"n":2}')]


def test_whole_calls_without_index() -> None:
    first = {"id": "x", "function": {"name": "a", "arguments": '{"n":1}'}}
    second = {"id": "y", "function": {"name": "a", "arguments": {"n": 2}}}
    assert read(parts(first, second), STOP) == [ToolCall("x", "a", '{"n":1}'), ToolCall("y", "a", '{"n": 2}')]


def test_fragments_without_index() -> None:
    stream = (
        parts({"id": "x", "function": {"name": "a", "arguments": '{"n"'}})
        + parts({"id": "x", "function": {"name": "a", "arguments": ":1}"}})
        + parts({"id": "y", "function": {"name": "b"}})
        + parts({"function": {"arguments": "{}"}})
        + STOP
    )
    assert read(stream) == [ToolCall("x", "a", '{"n":1}'), ToolCall("y", "b", "{}")]


def test_whole_calls_that_all_have_index_0() -> None:
    first = {"index": 0, "id": "x", "function": {"name": "a", "arguments": "{}"}}
    second = {"index": 0, "id": "y", "function": {"name": "b", "arguments": "{}"}}
    assert read(parts(first), parts(second), STOP) == [ToolCall("x", "a", "{}"), ToolCall("y", "b", "{}")]


def test_missing_and_double_ids_become_new_ones() -> None:
    calls = [{"index": n, "id": id, "function": {"name": "a", "arguments": "{}"}} for n, id in enumerate("xx")]
    calls += [{"index": 2, "function": {"name": "a"}}, {"index": 3, "id": "used", "function": {"name": "a"}}]
    calls += [{"index": 4, "id": "z" * 1000, "function": {"name": "a"}}]
    ids = [call.id for call in read(parts(*calls), STOP, used_ids=("used",))]
    assert ids[0] == "x"
    assert len(set(ids)) == 5
    assert all(id.startswith("call_") for id in ids[1:])


def test_two_calls_with_one_id_and_no_index() -> None:
    same = {"id": "x", "function": {"name": "a", "arguments": "{}"}}
    assert len(read(parts(same), parts(same), STOP)) == 2


def test_a_call_without_a_name() -> None:
    assert fault(parts({"index": 0, "id": "x", "function": {"arguments": "{}"}}), STOP).code == "model_protocol"


def test_a_call_without_arguments() -> None:
    assert read(parts({"index": 0, "id": "x", "function": {"name": "a"}}), STOP) == [ToolCall("x", "a", "{}")]


def test_an_answer_that_is_too_long() -> None:
    text = "x" * (MAX_MODEL_OUTPUT_CHARS // 4)
    assert len(read(event({"content": text}) * 4, STOP)) == 4
    too_long = fault(event({"content": text}) * 4, event({"reasoning": "x"}))
    assert (too_long.code, too_long.retryable) == ("model_protocol", False)


def test_a_line_that_is_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_wire, "MAX_LINE_BYTES", 1000)
    assert fault(*([b"data: " + b"x" * 100] * 20)).code == "model_protocol"
    assert fault(*([b"data: {" + b"x" * 100 + b"\n"] * 20)).code == "model_protocol"


def test_arguments_that_are_too_long() -> None:
    fragment = parts(
        {"index": 0, "id": "x", "function": {"name": "a", "arguments": "é" * (MAX_TOOL_ARGUMENT_BYTES // 4)}}
    )
    assert len(read(fragment, fragment, STOP)) == 1
    assert fault(fragment, fragment, fragment).code == "model_protocol"


def test_too_many_calls() -> None:
    calls = [{"index": n, "function": {"name": "a"}} for n in range(MAX_TOOL_CALLS_PER_ANSWER + 1)]
    assert len(read(parts(*calls[:-1]), STOP)) == MAX_TOOL_CALLS_PER_ANSWER
    assert fault(parts(*calls)).code == "model_protocol"


@pytest.mark.parametrize("reason", ["length", "content_filter"])
def test_a_limit_with_text_is_complete_and_without_is_a_fault(reason: str) -> None:
    assert read(event({"content": "Half"}, reason)) == [TextDelta("Half")]
    assert fault(event({"reasoning": "Hm"}, reason)).code == "model_rejected"


def test_a_provider_that_says_it_failed() -> None:
    assert fault(event({"content": "Half"}, "error")).code == "model_unavailable"


def test_errors_in_every_shape() -> None:
    assert fault(b'data: {"error":"boom"}\n\n').code == "model_unavailable"
    assert fault(b'data: {"object":"error","message":"boom"}\n\n').message.endswith("boom")
    assert fault(b'data: {"error":{"code":429,"message":"slow"}}\n\n').code == "model_rate_limited"
    assert (
        fault(b'data: {"error":{"code":"context_length_exceeded","message":"big"}}\n\n').code
        == "model_context_exceeded"
    )
    assert fault(b'data: {"error":{"type":"authentication_error","message":"no"}}\n\n').code == "model_unauthorized"


def test_earlier_arguments_that_are_not_an_object_go_out_as_one() -> None:
    calls = tuple(ToolCall(f"c{n}", "a", text) for n, text in enumerate(['{"n":1}', "", '{"n":', "[1]"]))
    request = ModelRequest(messages=[AssistantMessage("Hm.", calls)], tools=[], parameters={})
    (message,) = json.loads(encode_request(request, "m"))["messages"]
    assert message["content"] == "Hm."
    assert [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]] == [
        {"n": 1},
        {},
        {"invalid_arguments": '{"n":'},
        {"invalid_arguments": "[1]"},
    ]


def test_lines_keep_what_has_no_end_yet() -> None:
    lines = Lines()
    assert lines.feed(b"a\r") == [b"a"]
    assert lines.feed(b"\n") == []
    assert lines.feed(b"b") == []
    assert lines.feed(b"\n\nc") == [b"b", b""]
    assert lines.feed(b"\r\n") == [b"c"]
