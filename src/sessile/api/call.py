"""One request as a handler sees it: who calls, what was asked, and the services that can do it."""

import re
from collections.abc import AsyncIterator, Collection
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct
from starlette.responses import Response
from starlette.types import Receive, Scope

from sessile.api.limits import Limits
from sessile.domain.idempotency import fingerprint
from sessile.live.hub import Hub
from sessile.ports import Principal, Store
from sessile.rows import Once
from sessile.service.agents import Agents
from sessile.service.artifacts import Artifacts
from sessile.service.events import Events
from sessile.service.inputs import Inputs
from sessile.service.portable import Portable
from sessile.service.secrets import Secrets
from sessile.service.sessions import Sessions
from sessile.service.tool_servers import ToolList, ToolServers
from sessile.service.visibility import Visibility
from sessile.wire import codec
from sessile.wire.errors import InvalidParameter, NotSupported, TooLarge, UnsupportedMediaType
from sessile.wire.ids import EVENT_ID_PATTERN, IDEMPOTENCY_KEY_PATTERN
from sessile.wire.limits import MAX_BODY_BYTES, MAX_IDEMPOTENCY_KEY_CHARS

T = TypeVar("T")
MAX_TIMEOUT_SECONDS = 24 * 60 * 60
_IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_KEY_PATTERN)
_LAST_EVENT = re.compile(f"start|{EVENT_ID_PATTERN}")


class Services(Struct, frozen=True):
    """Everything a handler can ask for."""

    agents: Agents
    sessions: Sessions
    secrets: Secrets
    inputs: Inputs
    events: Events
    portable: Portable
    artifacts: Artifacts
    visibility: Visibility
    tool_servers: ToolServers
    tools: ToolList
    hub: Hub
    store: Store
    limits: Limits


class Call:
    """One request. Parameters are read on demand; each accessor raises the error the caller shall get."""

    def __init__(self, scope: Scope, receive: Receive, services: Services, request_id: str) -> None:
        self.services = services
        self.request_id = request_id
        self.method: str = scope["method"]
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.path: dict[str, str] = {}
        self.template = ""
        """The path of the operation with names in braces, once it is known."""
        self._whole_path: str = scope["path"]
        self._principal: Principal | None = None
        self._query_string: bytes = scope["query_string"]
        self._receive = receive
        self.held = 0
        """Bytes of its body that are in memory until it is answered."""

    @property
    def principal(self) -> Principal:
        """Who calls; only operations that need roles have one."""
        assert self._principal is not None
        return self._principal

    @principal.setter
    def principal(self, principal: Principal) -> None:
        self._principal = principal

    @property
    def secret(self) -> str | None:
        """The API key as sent in `x-api-key` or as a bearer token."""
        key = self.headers.get(b"x-api-key")
        if key is None:
            scheme, _, token = self.headers.get(b"authorization", b"").partition(b" ")
            key = token.strip() if scheme.lower() == b"bearer" else None
        return None if key is None else key.decode("latin-1")

    def query(self, type: type[T]) -> T:
        """The query parameters. Raises InvalidParameter for unknown, doubled or malformed ones.

        Those that `type` names in `repeated` may be given several times, and are lists.
        """
        try:
            pairs = parse_qsl(self._query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise InvalidParameter("There are more than 50 query parameters.") from None
        values: dict[str, Any] = {}
        repeated: Collection[str] = getattr(type, "repeated", ())
        for name, value in pairs:
            if name in repeated:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise InvalidParameter("A query parameter is given twice.")
            else:
                values[name] = value
        return _parameters(values, type)

    @property
    def content_type(self) -> bytes:
        """The Content-Type as it was sent."""
        return self.headers.get(b"content-type", b"")

    async def json(self) -> Any:
        """The body as decoded JSON. Raises UnsupportedMediaType, TooLarge, InvalidJson."""
        media, _, options = self.content_type.decode("latin-1").lower().partition(";")
        if media.strip() != "application/json" or options.strip() not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise UnsupportedMediaType
        return codec.decode(await self._body())

    def expect(self, media_type: str) -> None:
        """Raises UnsupportedMediaType unless the body is declared as this and nothing else."""
        if self.content_type.decode("latin-1").lower() != media_type:
            raise UnsupportedMediaType(f"The body must be {media_type}.")

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes, for an operation with a limit of its own; less of it when the caller goes away."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return
            yield message.get("body", b"")
            more = message.get("more_body", False)

    async def _body(self) -> bytes:
        message = await self._receive()
        body: bytes = message.get("body", b"")
        self._hold(len(body))
        if message.get("more_body"):
            parts, size = [body], len(body)
            while message.get("more_body"):
                message = await self._receive()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                self._hold(len(parts[-1]))
                if size > MAX_BODY_BYTES:
                    raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
            body = b"".join(parts)
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")
        return body

    def _hold(self, size: int) -> None:
        self.services.limits.hold(size)
        self.held += size

    def patience(self) -> float | None:
        """Seconds the caller is ready to wait, from `Request-Timeout-Millis` or `Request-Timeout`; at most a day."""
        seconds = None
        for name, unit in ((b"request-timeout", 1), (b"request-timeout-millis", 1000)):
            if (text := self.headers.get(name)) is not None:
                digits = text.lstrip(b"0")
                if not digits.isdigit():
                    raise InvalidParameter(f"{name.decode()}: must be an integer of 1 or more.")
                seconds = min(int(digits[:18]) / unit, MAX_TIMEOUT_SECONDS)
        return seconds

    def if_match(self) -> int | None:
        """The version an `If-Match` header asks for; None when it is missing or `*`."""
        text = self.headers.get(b"if-match", b"*").strip()
        if text == b"*":
            return None
        version = text[1:-1]
        if text[:1] + text[-1:] != b'""' or not version.isdigit() or len(version) > 18:
            raise InvalidParameter('if-match: must be an ETag of the session, such as "1".')
        return int(version)

    def if_last_event(self) -> str | None:
        """The event that an `If-Match` header wants to be the last one, or `start`; None when it is missing or `*`."""
        text = self.headers.get(b"if-match", b"*").strip().decode("latin-1")
        if text == "*":
            return None
        if text[:1] + text[-1:] != '""' or not _LAST_EVENT.fullmatch(text[1:-1]):
            raise InvalidParameter('if-match: must be the id of the last event in quotes, or "start".')
        return text[1:-1]

    def once(self, body: Any, apart_from: Collection[str] = ()) -> Once | None:
        """The `Idempotency-Key` and what it is bound to, if there is one. `apart_from`: fields that may change."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        key = given.decode("latin-1")
        if not _IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidParameter(
                f"idempotency-key: must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters, no spaces."
            )
        return Once(key, fingerprint(self.method, self._whole_path, self.principal.key_id, body, apart_from))

    def refuse(self, *names: bytes) -> None:
        """Raise NotSupported for a request header whose promise is not kept here: ignoring it would mislead."""
        for name in names:
            if name in self.headers:
                raise NotSupported(f"The header {name.decode()} is not supported here.")

    def asks_first_for(self, media: bytes) -> bool:
        """Whether the Accept header asks for this media type first."""
        return self.headers.get(b"accept", b"").split(b",")[0].split(b";")[0].strip() == media


class JsonResponse(Response):
    """A JSON answer from encoded bytes."""

    media_type = "application/json"


def _parameters(values: dict[str, Any], type: type[T]) -> T:
    try:
        return msgspec.convert(values, type, strict=False)
    except msgspec.ValidationError as error:
        invalid = codec.invalid_field(str(error))
        raise InvalidParameter(invalid.message, field_errors=invalid.field_errors) from None
