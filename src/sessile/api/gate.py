"""Who may knock at all: the Host and Origin of a request, its header sizes, and CORS where it is configured."""

from collections.abc import Collection

from starlette.types import Scope

from sessile.wire.errors import HeadersTooLarge, HostNotAllowed, OriginNotAllowed
from sessile.wire.limits import MAX_HEADER_BYTES, MAX_URL_BYTES

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_METHODS = "GET, POST, PUT, PATCH, DELETE"
_EXPOSED = (
    "content-disposition, content-range, etag, retry-after, x-event-id, x-request-id, x-sessile-inactive, x-turn-id"
)


class Gate:
    """Checks that come before everything else. A page on another origin, or one that rebinds a name, stays outside."""

    def __init__(self, hosts: Collection[str], origins: Collection[str]) -> None:
        self._any_host = "*" in hosts
        self._hosts = _LOOPBACK | {host.lower() for host in hosts}
        self._origins = frozenset(origins)

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raises HeadersTooLarge, HostNotAllowed, OriginNotAllowed."""
        size = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value) + 4
        if size > MAX_HEADER_BYTES:
            raise HeadersTooLarge(f"The headers are larger than {MAX_HEADER_BYTES} bytes.")
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_URL_BYTES:
            raise HeadersTooLarge(f"The request line is longer than {MAX_URL_BYTES} bytes.")
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._any_host and _without_port(host) not in self._hosts:
            raise HostNotAllowed
        origin = headers.get(b"origin")
        if origin is not None and not self._allowed(origin.decode("latin-1"), host):
            raise OriginNotAllowed

    def cors(self, headers: dict[bytes, bytes]) -> dict[str, str]:
        """Answer headers for a page of an allowed origin."""
        origin = headers.get(b"origin")
        if origin is None or (name := origin.decode("latin-1")) not in self._origins:
            return {}
        return {"access-control-allow-origin": name, "access-control-expose-headers": _EXPOSED, "vary": "origin"}

    def preflight(self, headers: dict[bytes, bytes]) -> dict[str, str] | None:
        """Answer headers for a preflight of an allowed origin; None when the request is not one."""
        cors = self.cors(headers)
        if not cors or b"access-control-request-method" not in headers:
            return None
        asked = headers.get(b"access-control-request-headers", b"").decode("latin-1")
        return cors | {
            "access-control-allow-methods": _METHODS,
            "access-control-allow-headers": asked,
            "access-control-max-age": "600",
        }

    def _allowed(self, origin: str, host: str) -> bool:
        return origin in self._origins or origin.partition("://")[2].lower() == host


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.partition(":")[0]
