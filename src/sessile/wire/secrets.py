"""Secrets of agents and sessions: what a caller sends, and the masks that an answer shows."""

from typing import Annotated

from msgspec import Meta, Struct

from sessile.wire.limits import MAX_SECRET_CHARS, MAX_SECRET_NAME_CHARS

MASK = "********"
"""What every answer shows in the place of a value, whatever its length."""

SecretName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\Z", max_length=MAX_SECRET_NAME_CHARS)]
SecretValue = Annotated[str, Meta(min_length=1, max_length=MAX_SECRET_CHARS)]
NewSecrets = dict[SecretName, SecretValue]
SecretChanges = dict[SecretName, SecretValue | None]


class AgentSecrets(Struct):
    """The secrets of an agent, masked."""

    secrets: dict[str, str]


class ReplaceAgentSecretsRequest(Struct, forbid_unknown_fields=True):
    """All secrets of an agent; those that are not there are removed."""

    secrets: NewSecrets


class UpdateAgentSecretsRequest(Struct, forbid_unknown_fields=True):
    """Secrets of an agent to set, and null for those to remove; others stay."""

    secrets: SecretChanges


def masked(names: list[str]) -> dict[str, str]:
    """How an answer shows secrets."""
    return dict.fromkeys(names, MASK)
