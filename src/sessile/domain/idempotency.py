"""What makes two requests the same one: the fingerprint that an idempotency key is bound to."""

from collections.abc import Collection
from hashlib import sha256
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="deterministic").encode


def fingerprint(method: str, path: str, caller: str | None, body: Any, apart_from: Collection[str] = ()) -> bytes:
    """A digest of a request: equal when method, path, caller (an API key's id) and body are.

    The order of fields and white space in the body do not count, nor do the fields `apart_from` at its top.
    """
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in apart_from}
    return sha256(_encode([method, path, caller, body])).digest()


def with_stream(request: bytes, digest: bytes) -> bytes:
    """The fingerprint of a request and of the stream that came with it, from those of each."""
    return sha256(request + digest).digest()
