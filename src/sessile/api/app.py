"""The ASGI application: from a request to its row of the route table, and from whatever happens to an answer."""

import re
import time
from collections.abc import Iterable
from typing import Any

import structlog
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from sessile.api import (
    docs,
    errors,
    metrics,
    openapi,
    routes_agents,
    routes_artifacts,
    routes_events,
    routes_inputs,
    routes_portable,
    routes_secrets,
    routes_server,
    routes_sessions,
    routes_tools,
    routes_visibility,
)
from sessile.api.call import Call, JsonResponse, Services
from sessile.api.gate import Gate
from sessile.api.metrics import MetricsPage
from sessile.api.route import Route
from sessile.auth import roles
from sessile.observation import TRACEPARENT, UNOBSERVED, RequestObserver
from sessile.ports import Authenticator
from sessile.wire import codec, ids
from sessile.wire.errors import MethodNotAllowed, NotFound, SessileError

ROUTES: tuple[Route, ...] = (
    *routes_events.ROUTES,
    *routes_visibility.ROUTES,
    *routes_inputs.ROUTES,
    *routes_sessions.ROUTES,
    *routes_portable.ROUTES,
    *routes_artifacts.ROUTES,
    *routes_agents.ROUTES,
    *routes_secrets.ROUTES,
    *routes_tools.ROUTES,
    *routes_server.ROUTES,
)
_REQUEST_ID = re.compile(rb"[0-9A-Za-z._-]{1,100}")
_log = structlog.get_logger("sessile.http")


class App:
    """Sessile over HTTP."""

    def __init__(
        self,
        services: Services,
        authenticator: Authenticator,
        gate: Gate,
        observer: RequestObserver = UNOBSERVED,
        metrics: MetricsPage | None = None,
    ) -> None:
        self._services = services
        self._authenticator = authenticator
        self._gate = gate
        self._observer = observer
        self._metrics = metrics
        self._table = _table(ROUTES)
        self._pages = {**docs.PAGES, "/openapi.json": self._document}
        self._openapi: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise NotImplementedError(scope["type"])
        started = time.perf_counter()
        call = Call(scope, receive, self._services, "")
        call.request_id = _request_id(call.headers)
        bind_contextvars(request_id=call.request_id)
        if (parent := call.headers.get(b"traceparent")) is not None:
            TRACEPARENT.set(parent.decode("latin-1"))
        limits = self._services.limits
        limits.in_flight += 1
        try:
            response = await self._answer(scope, call)
            status = response.status_code
            self._observer.request(call.method, call.template, status, time.perf_counter() - started)
            await response(scope, receive, send)
        finally:
            limits.in_flight -= 1
            limits.release(call.held)
        level = _log.error if status >= 500 else _log.info
        level(
            "request",
            method=call.method,
            path=scope["path"],
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 2),
        )

    async def _answer(self, scope: Scope, call: Call) -> Response:
        headers: dict[str, str] = {}
        try:
            self._gate.check(scope, call.headers)
            headers = self._gate.cors(call.headers)
            response = await self._route(scope, call)
        except SessileError as error:
            response = errors.render(error, call.request_id, _allow(error))
        except Exception:  # the one place where a defect in a handler becomes an answer instead of a dropped connection
            _log.exception("request_failed", method=call.method, path=scope["path"])
            response = errors.render(SessileError(), call.request_id)
        response.headers["x-request-id"] = call.request_id
        for name, value in headers.items():
            response.headers[name] = value
        return response

    async def _route(self, scope: Scope, call: Call) -> Response:
        path = scope["path"]
        for pattern, template, by_method in self._table:
            match = pattern.match(path)
            if match is None:
                continue
            call.template = template
            if call.method == "OPTIONS" and (preflight := self._gate.preflight(call.headers)) is not None:
                return Response(status_code=204, headers=preflight)
            route = by_method.get(call.method)
            if route is None:
                allowed = sorted(by_method)
                raise MethodNotAllowed(f"{call.method} is not allowed here; use {', '.join(allowed)}.", allowed=allowed)
            call.path = match.groupdict()
            handler, required = route.handler, route.roles
            if route.streaming is not None and call.asks_first_for(b"text/event-stream"):
                handler, required = route.streaming.handler, route.streaming.roles
            if required is not None:
                self._services.limits.check_server()
                call.principal = await self._authenticator.authenticate(call.secret)
                self._services.limits.check_rate(call.principal.key_id)
                roles.check(call.principal, required, call.path.get("agent_key"))
                call.patience()  # malformed timeouts are refused by every operation, also by those that never wait
            return await handler(call)
        if path == metrics.PATH and self._metrics is not None:
            call.template = path
            return await self._metrics.answer(scope, call, self._authenticator)
        if (page := self._pages.get(path)) is not None:
            call.template = path
            if call.method != "GET":
                raise MethodNotAllowed(f"{call.method} is not allowed here; use GET.", allowed=["GET"])
            return await page()
        raise NotFound(f"There is nothing at {path[:200]!r}.")

    async def _document(self) -> Response:
        if self._openapi is None:
            self._openapi = codec.encode(openapi.document(ROUTES))
        return JsonResponse(self._openapi)


Table = list[tuple[re.Pattern[str], str, dict[str, Route]]]


def _table(routes: Iterable[Route]) -> Table:
    """Routes by path, in the order of their first appearance."""
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    return [(compile_path(path)[0], path, by_method) for path, by_method in paths.items()]


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else ids.request_id()


def _allow(error: SessileError) -> dict[str, Any]:
    return {"allow": ", ".join(error.allowed)} if isinstance(error, MethodNotAllowed) else {}
