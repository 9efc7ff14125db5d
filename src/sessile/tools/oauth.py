"""Access tokens of OAuth 2 for tools, by client credentials or a refresh token, from a guarded token endpoint."""

import base64
import time
from urllib.parse import quote, urlencode

import msgspec

from sessile.ports import ToolFault
from sessile.tools.fetch import Request, fetch
from sessile.tools.guard import Guard
from sessile.wire.tool_configurations import WebGetClientCredentialsAuth, WebGetRefreshTokenAuth

_MAX_BYTES = 64 * 1024
_REMEMBERED = 256
_EARLY_SECONDS = 30.0
_DEFAULT_SECONDS = 300.0

Grant = WebGetClientCredentialsAuth | WebGetRefreshTokenAuth


class _Answer(msgspec.Struct):
    access_token: str
    expires_in: float | None = None


class AccessTokens:
    """Gets access tokens and keeps each until shortly before it expires."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._kept: dict[tuple[str, ...], tuple[str, float]] = {}
        """Tokens and the moments at which they are too old, the oldest first."""

    async def token(self, grant: Grant, seconds: float) -> str:
        """An access token. Raises ToolFault."""
        form, key = _form(grant)
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept[1]:
            return kept[0]
        identity = f"{quote(str(grant.client_id), safe='')}:{quote(str(grant.client_secret), safe='')}"
        request = Request(
            url=grant.token_endpoint,
            method="POST",
            headers={"content-type": "application/x-www-form-urlencoded", "accept": "application/json"},
            private={"authorization": f"Basic {base64.b64encode(identity.encode()).decode()}"},
            body=urlencode(form).encode(),
            follow_redirects=False,
            max_bytes=_MAX_BYTES,
            seconds=seconds,
        )
        fetched = await fetch(self._guard, request)
        try:
            answer = msgspec.json.decode(fetched.body, type=_Answer, strict=False)
        except msgspec.DecodeError:
            text = f"The token endpoint answered {fetched.status} without an access token."
            raise ToolFault("tool_unreachable", text) from None
        lasts = answer.expires_in if answer.expires_in is not None else _DEFAULT_SECONDS
        self._kept.pop(key, None)
        self._kept[key] = (answer.access_token, time.monotonic() + lasts - _EARLY_SECONDS)
        if len(self._kept) > _REMEMBERED:
            del self._kept[next(iter(self._kept))]
        return answer.access_token


def _form(grant: Grant) -> tuple[dict[str, str], tuple[str, ...]]:
    """What is sent, and what the token is remembered by."""
    identity = (grant.token_endpoint, str(grant.client_id), str(grant.client_secret))
    if isinstance(grant, WebGetRefreshTokenAuth):
        form = {"grant_type": "refresh_token", "refresh_token": str(grant.refresh_token)}
        return form, ("refresh_token", *identity, str(grant.refresh_token))
    form = {"grant_type": "client_credentials"}
    scopes = " ".join(grant.scopes) if isinstance(grant.scopes, list) else ""
    if scopes:
        form["scope"] = scopes
    return form, ("client_credentials", *identity, scopes)
