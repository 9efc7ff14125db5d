"""The end of a turn whose output follows a JSON schema: take the answer, or tell the model what is wrong with it."""

from sessile.domain import structured
from sessile.domain.messages import AssistantMessage, Message, UserMessage
from sessile.domain.turn import ModelAnswer
from sessile.runner.open_turn import OpenTurn
from sessile.wire.events import StructuredOutputEvent, TurnError

MAX_REPAIRS = 2
"""How often a model may try again after an answer that does not follow the schema."""


async def end(turn: OpenTurn, output: structured.Output, answer: ModelAnswer, repairs: list[Message]) -> bool:
    """End the turn with what the answer holds; False when the model shall try again, told why by `repairs`.

    After the last try the turn ends with the error `structured_output_invalid`, and its text is kept as partial.
    """
    text = "".join(answer.text)
    content, problem = output.read(text)
    thinking = answer.events(partial=True)
    if problem is None:
        event = StructuredOutputEvent(schema_name=output.schema.name, content=content)
        await turn.end("end_turn", [*thinking, event])
        return True
    if len(repairs) >= 2 * MAX_REPAIRS:
        answer.shown = True
        await turn.end("error", answer.events(partial=True), _never(problem))
        return True
    if thinking:
        await turn.append(thinking)
    turn.steered = True  # without a commit before the next model call, nobody has told the turn what waits to join it
    repairs += [AssistantMessage(text or "(nothing)"), UserMessage(structured.repair(problem))]
    return False


def unusable(reason: str) -> TurnError:
    """Why a turn cannot have the output that its agent asks for."""
    return TurnError(code="structured_output_invalid", message=reason)


def _never(problem: str) -> TurnError:
    return unusable(f"The model gave no output that follows the schema in {MAX_REPAIRS + 1} tries. The last: {problem}")
