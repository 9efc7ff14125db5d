"""Files that tools make in a turn: they become artifacts in the commit that holds the output of their call."""

from collections.abc import Mapping, Sequence

from msgspec import structs

from sessile.domain import large_outputs
from sessile.rows import NewArtifact
from sessile.wire.events import AnyEvent, ArtifactUploadEvent, ToolOutputEvent

FULL = "The session cannot hold more files."


def told(
    events: Sequence[AnyEvent], made: Mapping[str, Sequence[NewArtifact]]
) -> tuple[Sequence[AnyEvent], Sequence[NewArtifact]]:
    """The events, each output of a call that made files behind an `artifact_upload`, and these files.

    What a call has made that failed is let go of.
    """
    if not made:
        return events, ()
    all_events: list[AnyEvent] = []
    kept: list[NewArtifact] = []
    for event in events:
        if isinstance(event, ToolOutputEvent) and not event.error and (own := made.get(event.tool_call_id)):
            all_events.append(ArtifactUploadEvent(artifacts=[artifact.reference() for artifact in own]))
            kept += own
        all_events.append(event)
    return all_events, kept


def fewer(events: Sequence[AnyEvent], made: Sequence[NewArtifact]) -> tuple[Sequence[AnyEvent], Sequence[NewArtifact]]:
    """What `told` gave, without the files of the last call that made some: the session has no room for all of them."""
    place, told = next(
        (place, event) for place, event in reversed([*enumerate(events)]) if isinstance(event, ArtifactUploadEvent)
    )
    output = events[place + 1]
    assert isinstance(output, ToolOutputEvent), "an `artifact_upload` of a turn stands before the output of its call"
    return [*events[:place], _without_file(output), *events[place + 2 :]], made[: -len(told.artifacts)]


def _without_file(output: ToolOutputEvent) -> ToolOutputEvent:
    """The output of a call whose file cannot be kept: cut when the file held the rest of it, else an error."""
    if large_outputs.refers(output.tool_output):
        return structs.replace(output, tool_output=large_outputs.alone(output.tool_output))
    return structs.replace(output, tool_output={"error": FULL, "code": "tool_failed"}, error=True)
