"""`GET /metrics`: what the server has counted, for Prometheus, and who may read it."""

from collections.abc import Awaitable, Callable
from typing import Literal

from starlette.responses import Response
from starlette.types import Scope

from sessile.api.call import Call
from sessile.auth import roles
from sessile.auth.roles import RequiredRoles
from sessile.ports import Authenticator
from sessile.wire.errors import MethodNotAllowed

PATH = "/metrics"
Access = Literal["loopback", "key", "open"]
_READERS = RequiredRoles(frozenset({"administrator", "owner"}))
_LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via")
"""What a proxy adds: whoever it asks for is somewhere else."""


class MetricsPage:
    """The page. `access`: who needs no key: whoever is on this machine, nobody, or everybody."""

    def __init__(self, access: Access, content_type: str, text: Callable[[], Awaitable[bytes]]) -> None:
        self._access = access
        self._content_type = content_type
        self._text = text

    async def answer(self, scope: Scope, call: Call, authenticator: Authenticator) -> Response:
        """The page, for whoever may read it. Raises MethodNotAllowed, Unauthenticated, Forbidden."""
        if call.method != "GET":
            raise MethodNotAllowed(f"{call.method} is not allowed here; use GET.", allowed=["GET"])
        if not self._needs_no_key(scope, call):
            roles.check(await authenticator.authenticate(call.secret), _READERS, None)
        return Response(await self._text(), headers={"content-type": self._content_type, "cache-control": "no-store"})

    def _needs_no_key(self, scope: Scope, call: Call) -> bool:
        if self._access == "open":
            return True
        client = scope.get("client")
        near = client is not None and client[0] in _LOOPBACK
        return self._access == "loopback" and near and not any(name in call.headers for name in _FORWARDED)
