"""One model call of a turn: stream it to the followers, and try again as the agent's retry configuration says."""

from contextlib import aclosing

from sessile.domain.messages import Message, ToolCall
from sessile.domain.turn import ModelAnswer, context_usage, retry_delay
from sessile.observation import ModelCallWatch
from sessile.ports import Clock, Finished, ModelFault, ModelRequest, ModelUsage, TextDelta, ThinkingDelta
from sessile.runner.open_turn import OpenTurn
from sessile.runner.plan import Plan
from sessile.wire import ids
from sessile.wire.events import StreamingAgentOutput, StreamingThinking, StreamingThinkingEnd
from sessile.wire.sessions import Usage


async def call_model(turn: OpenTurn, plan: Plan, messages: list[Message], clock: Clock) -> ModelAnswer:
    """Call the model until it answers. A call is tried again only while nothing of it was shown. Raises ModelFault."""
    request = ModelRequest(
        messages=messages,
        tools=[tool.spec for tool in plan.offered.values()],
        parameters=plan.settings.parameters,
        output=plan.output.schema if plan.output else None,
    )
    failures = 0
    while True:
        answer = turn.answer = ModelAnswer(output_id=ids.output_id(), shown=plan.output is None)
        watch = turn.watch.model_call(plan.model.name, messages, request.parameters)
        try:
            await _stream(turn, plan, request, answer, watch)
        except ModelFault as fault:
            watch.failed(fault.code, answer.usage)
            failures += 1
            wait = retry_delay(plan.settings.retry_configuration, failures, fault.retryable, fault.retry_after)
            if answer.begun or wait is None:
                raise
            await clock.sleep(wait)
        else:
            watch.ended(answer.usage, answer.finish_reason, answer)
            return answer
        finally:
            watch.cancelled(answer.usage)
            turn.count(answer.usage, context_usage(answer.usage, plan.model.context_window))


async def _stream(
    turn: OpenTurn, plan: Plan, request: ModelRequest, answer: ModelAnswer, watch: ModelCallWatch
) -> None:
    """Read one attempt into `answer`, showing each delta as it comes."""
    thought = spoken = 0
    async with aclosing(plan.model.stream(request)) as chunks:
        async for chunk in chunks:
            match chunk:
                case TextDelta(text=text):
                    if not (thought or spoken):
                        watch.first_delta()
                    if thought and not spoken:
                        _end_thinking(turn, answer)
                    answer.text.append(text)
                    if not answer.shown:
                        spoken += len(text)
                        continue
                    turn.publish(
                        StreamingAgentOutput(
                            content=text,
                            output_id=answer.output_id,
                            offset=spoken,
                            turn_id=turn.turn_id,
                            created_at=turn.now(),
                        )
                    )
                    spoken += len(text)
                case ThinkingDelta(text=text):
                    if not thought:
                        watch.first_delta()
                    answer.thinking.append(text)
                    turn.publish(
                        StreamingThinking(
                            content=text,
                            output_id=answer.output_id,
                            offset=thought,
                            turn_id=turn.turn_id,
                            created_at=turn.now(),
                        )
                    )
                    thought += len(text)
                case ToolCall():
                    answer.tool_calls.append(chunk)
                case Finished(reason=reason):
                    answer.finish_reason = reason
                case ModelUsage():
                    answer.usage = Usage(
                        input_tokens=chunk.input_tokens,
                        cached_tokens=chunk.cached_tokens,
                        output_tokens=chunk.output_tokens,
                        reasoning_tokens=chunk.reasoning_tokens,
                        model_calls=1,
                    )
    if thought and not spoken:
        _end_thinking(turn, answer)


def _end_thinking(turn: OpenTurn, answer: ModelAnswer) -> None:
    turn.publish(StreamingThinkingEnd(output_id=answer.output_id, turn_id=turn.turn_id, created_at=turn.now()))
