"""An input that comes as multipart/form-data: its fields, and its files, which are durable before it is accepted."""

import contextlib
from collections.abc import AsyncIterator, Sequence

from sessile.api.call import Call
from sessile.api.multipart import Form
from sessile.rows import NewArtifact, Once
from sessile.service.inputs import parse
from sessile.wire.inputs import InputMessageRequest

Received = tuple[InputMessageRequest, Once | None, Sequence[NewArtifact]]


@contextlib.asynccontextmanager
async def received(call: Call) -> AsyncIterator[Received]:
    """The request, its idempotency key and its files. What of them no input has taken at the end is removed.

    Raises NotFound for the session before anything is read; InvalidMultipart, InvalidRequest, InvalidJson, TooLarge,
    NotSupported, StorageUnavailable.
    """
    artifacts = call.services.artifacts
    await artifacts.find(call.principal, call.path["agent_key"], call.path["session_key"])
    incoming = artifacts.receive(call.principal)
    files: Sequence[NewArtifact] = ()
    try:
        form = Form(incoming)
        await form.read(call.content_type, call.chunks())
        document, ttl_days = form.document(), form.ttl_days()
        same = {**document, "files": incoming.described(), "ttl_days": ttl_days}
        once = call.once(same, apart_from=("stream_response", "since"))
        request = parse(document)
        assert isinstance(request, InputMessageRequest)
        files = await incoming.keep(ttl_days)
        yield request, once, files
    finally:
        await incoming.discard()
        artifacts.doubt(files, call.principal)
