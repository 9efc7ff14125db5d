"""The upper limit of the HTTP stack alone: raw ASGI that decodes a JSON body and encodes it again."""

import sys

import msgspec

from benchmarks.asgi import Receive, Scope, Send, answer, read_body, serve

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """POST: the body back. GET: ready."""
    if scope["method"] == "GET":
        await answer(send, 200, b"{}")
        return
    await answer(send, 200, _encode(_decode(await read_body(receive))))


if __name__ == "__main__":
    serve(app, int(sys.argv[1]))
