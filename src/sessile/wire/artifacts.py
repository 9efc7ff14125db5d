"""Artifacts: the files of a session, as answers show them."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType

from sessile.wire.agents import ListMetadata
from sessile.wire.ids import ArtifactId, Timestamp


class SessionArtifact(Struct, kw_only=True, omit_defaults=True):
    """A file of a session. `data` is its content in base64: only where a single artifact is shown."""

    artifact_id: ArtifactId
    filename: str
    mime_type: str
    size_bytes: int
    checksum_sha256: str
    metadata: dict[str, Any]
    description: str | UnsetType = UNSET
    ttl_days: int | UnsetType = UNSET
    created_at: Timestamp
    updated_at: Timestamp
    data: str | UnsetType = UNSET


class ListSessionArtifactsResponse(Struct):
    """A page of artifacts."""

    artifacts: list[SessionArtifact]
    metadata: ListMetadata
