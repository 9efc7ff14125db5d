"""A chat model behind the OpenAI-compatible streaming wire, in the cloud or self-hosted.

This is the HTTP side only; what the bytes mean is said in `openai_wire`, what a failure means in `openai_faults`.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp
import msgspec
import structlog

from sessile.models.openai_faults import protocol_fault, shorten, status_fault
from sessile.models.openai_wire import MAX_LINE_BYTES, Answer, ResponseFormat, call_ids, encode_request
from sessile.ports import Finished, ModelChunk, ModelFault, ModelRequest

CONTEXT_WINDOW = 128_000
"""Tokens of a model whose configuration does not say."""
MAX_ERROR_BYTES = 64 * 1024
REUSE_SECONDS = 0.1
"""How long to wait after the last event for the end of the body, so that the connection can be used again."""
_MAX_REASON_CHARS = 50
_HEADERS = {
    "Accept": "text/event-stream",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "sessile",
}

_log = structlog.get_logger("sessile.models")


class HttpSession:
    """One aiohttp session with any number of connections, made inside the running loop when first needed.

    With `reuse=False` every call makes a connection of its own.
    """

    def __init__(self, *, reuse: bool = True) -> None:
        self._reuse = reuse
        self._session: aiohttp.ClientSession | None = None

    def get(self) -> aiohttp.ClientSession:
        """The session. Needs a running loop."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=not self._reuse),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()


class OpenAIChat:
    """A Model at `{base_url}/chat/completions`.

    The key is read from `environ[key_variable]` at each call; without `key_variable` none is sent. `timeout_seconds`
    bounds the wait for a connection, for the first byte and between chunks. `parameters` are sent where the request has
    none of the same name. A given `http` stays the caller's to close.
    """

    def __init__(
        self,
        name: str,
        *,
        model: str,
        base_url: str,
        key_variable: str | None = None,
        key_required: bool = True,
        context_window: int = CONTEXT_WINDOW,
        timeout_seconds: float = 120,
        parameters: Mapping[str, Any] | None = None,
        structured_output: ResponseFormat = "json_schema",
        http: HttpSession | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._name = name
        self._model = model
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._key_variable = key_variable
        self._key_required = key_required
        self._context_window = context_window
        self._timeout_seconds = timeout_seconds
        self._parameters = parameters
        self._structured_output = structured_output
        self._timeout = aiohttp.ClientTimeout(total=None, connect=timeout_seconds, sock_read=timeout_seconds)
        self._owns_http = http is None
        self._http = http or HttpSession()
        self._environ = environ

    @property
    def name(self) -> str:
        """The name agents use."""
        return self._name

    @property
    def context_window(self) -> int:
        """Tokens the model can read and write in one call."""
        return self._context_window

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Call the model once, as the Model port says."""
        key = self._key()
        answer = Answer(call_ids(request.messages), key)
        if self._parameters:
            request = msgspec.structs.replace(request, parameters={**self._parameters, **request.parameters})
        response = await self._post(encode_request(request, self._model, self._structured_output), key)
        try:
            if response.status != 200:
                raise status_fault(response.status, await _error_body(response), response.headers, key)
            if _is_stream(response):
                try:
                    async for data in response.content.iter_any():
                        for delta in answer.feed(data):
                            yield delta
                        if answer.done:
                            break
                except (aiohttp.ClientError, TimeoutError) as error:
                    if answer.finish_reason is None:
                        raise self._connection_fault(error, key) from error
                for delta in answer.feed_eof():
                    yield delta
            else:
                for delta in answer.feed_whole(await self._whole_body(response, key)):
                    yield delta
            for chunk in answer.finish():
                yield chunk
            if answer.finish_reason is not None:
                yield Finished(answer.finish_reason[:_MAX_REASON_CHARS])
            await _read_end(response)
        finally:
            # Not release(): a connection whose answer nobody reads any more must end, so that the provider stops.
            response.close()

    async def close(self) -> None:
        """Close the adapter's own connections."""
        if self._owns_http:
            await self._http.close()

    def _key(self) -> str | None:
        if self._key_variable is None:
            return None
        key = self._environ.get(self._key_variable, "").strip()
        if not key and self._key_required:
            raise ModelFault(
                "model_unauthorized",
                f"The model '{self._name}' needs an API key: the variable {self._key_variable} is not set.",
                retryable=False,
            )
        if not (key.isascii() and key.isprintable()):
            raise ModelFault(
                "model_unauthorized",
                f"The variable {self._key_variable} holds characters that an API key cannot have.",
                retryable=False,
            )
        return key or None

    async def _post(self, body: bytes, key: str | None) -> aiohttp.ClientResponse:
        headers = _HEADERS if key is None else {**_HEADERS, "Authorization": f"Bearer {key}"}
        try:
            return await self._http.get().post(
                self._url, data=body, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._connection_fault(error, key) from error

    async def _whole_body(self, response: aiohttp.ClientResponse, key: str | None) -> bytes:
        if response.content_type != "application/json":
            raise protocol_fault(
                f"The provider answered with {shorten(response.content_type, key)}; check base_url.", retryable=False
            )
        try:
            body = await _read(response, MAX_LINE_BYTES)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._connection_fault(error, key) from error
        if len(body) > MAX_LINE_BYTES:
            raise protocol_fault("The provider's answer is too long.", retryable=False)
        return body

    def _connection_fault(self, error: aiohttp.ClientError | TimeoutError, key: str | None) -> ModelFault:
        if isinstance(error, TimeoutError):
            return ModelFault(
                "model_timeout", f"The provider sent nothing for {self._timeout_seconds:g} seconds.", retryable=True
            )
        if isinstance(error, aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError):
            return ModelFault("model_rejected", "The model's base_url is not a URL.", retryable=False)
        _log.warning("provider_connection_failed", model=self._name, error=shorten(str(error), key))
        return ModelFault("model_unavailable", "The connection to the model's provider failed.", retryable=True)


def _is_stream(response: aiohttp.ClientResponse) -> bool:
    """Whether the body is to be read as events; servers that name no type, or a plain one, mean a stream."""
    return "Content-Type" not in response.headers or response.content_type in ("text/event-stream", "text/plain")


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or somewhat more than its first `limit` bytes."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > limit:
            break
    return bytes(body)


async def _error_body(response: aiohttp.ClientResponse) -> bytes:
    try:
        return await _read(response, MAX_ERROR_BYTES)
    except (aiohttp.ClientError, TimeoutError):
        return b""


async def _read_end(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end of the body; whatever else comes, the caller closes the connection."""
    try:
        async with asyncio.timeout(REUSE_SECONDS):
            await response.content.readany()
    except (aiohttp.ClientError, TimeoutError):
        return
