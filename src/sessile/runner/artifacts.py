"""Files that tools make in a turn: they become artifacts in the commit that holds the output of their call."""

from collections.abc import Mapping, Sequence

from sessile.rows import NewArtifact
from sessile.wire.events import AnyEvent, ArtifactUploadEvent, ToolOutputEvent


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
