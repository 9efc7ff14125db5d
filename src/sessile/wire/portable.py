"""The lines of an exported session. PROTOCOL.md section 5.9 is about them; what a line holds is checked here."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from sessile.wire.agents import Description, Metadata
from sessile.wire.events import AnyEvent
from sessile.wire.ids import ArtifactId, Key
from sessile.wire.limits import MAX_TTL_DAYS
from sessile.wire.sessions import Origin, SessionName, TtiMinutes

MEDIA_TYPE = "application/jsonl"
FORMAT: Literal[1] = 1


class SessionLine(Struct, kw_only=True, tag_field="kind", tag="session", forbid_unknown_fields=True):
    """The first line: the format, and the session without what follows from its events. Secrets are never here."""

    format: Literal[1]
    key: Key
    name: SessionName
    description: Description | UnsetType = UNSET
    metadata: Metadata
    enabled: bool
    tti_minutes: TtiMinutes
    from_session: Origin | UnsetType = UNSET


class AgentLine(Struct, kw_only=True, tag_field="kind", tag="agent", forbid_unknown_fields=True):
    """The second line: the agent as it was when the session was exported, for whoever wants to make one like it."""

    key: Key
    document: dict[str, Any]


class EventLine(Struct, kw_only=True, tag_field="kind", tag="event", forbid_unknown_fields=True):
    """An event or record, hidden ones too, as getAgentEvent shows it.

    `visibility` says why it is hidden where nobody who can be undone has hidden it.
    """

    visibility: Literal["compacted", "deleted"] | UnsetType = UNSET
    event: AnyEvent


class FileLine(Struct, kw_only=True, tag_field="kind", tag="file", forbid_unknown_fields=True):
    """A file of the session, after the events, one of which tells of it. Its bytes follow in `data` lines."""

    artifact_id: ArtifactId
    filename: str
    mime_type: str
    size_bytes: Annotated[int, Meta(ge=0)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    ttl_days: Annotated[int, Meta(ge=1, le=MAX_TTL_DAYS)] | UnsetType = UNSET
    created_at: str


class DataLine(Struct, kw_only=True, tag_field="kind", tag="data", forbid_unknown_fields=True):
    """The next bytes of the file before it."""

    base64: str


class EndLine(Struct, kw_only=True, tag_field="kind", tag="end", forbid_unknown_fields=True):
    """The last line: how many events there are, and the SHA-256 of all bytes before this line, in hexadecimal."""

    events: int
    sha256: str


Line = SessionLine | AgentLine | EventLine | FileLine | DataLine | EndLine
