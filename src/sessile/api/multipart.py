"""An input as multipart/form-data: fields in memory within a limit, files to whoever takes them."""

import re
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from sessile.service.artifacts import Incoming
from sessile.wire import codec
from sessile.wire.errors import InvalidJson, InvalidMultipart, InvalidRequest, TooLarge
from sessile.wire.limits import MAX_BODY_BYTES, MAX_INPUT_MESSAGES, MAX_TTL_DAYS, MAX_UPLOAD_BYTES, MAX_UPLOAD_FILES
from sessile.wire.multipart import MultipartReader, PartBegin, PartEnd, Step

_FILES = "files"
_FIELDS = ("type", "message", "messages", "stream_response", "since", "behavior", "ttl_days")
_MAX_PARTS = MAX_UPLOAD_FILES + 1 + MAX_INPUT_MESSAGES + len(_FIELDS)
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_DIGITS = re.compile(r"[0-9]{1,9}")


class Form:
    """The parts of one body. Fields are collected; files go to `incoming`."""

    def __init__(self, incoming: Incoming) -> None:
        self._incoming = incoming
        self._fields: dict[str, list[str]] = {}
        self._left = MAX_BODY_BYTES
        self._parts = 0
        self._part = PartBegin("", None, None)
        self._data = bytearray()

    async def read(self, content_type: bytes, body: AsyncIterator[bytes]) -> None:
        """Read it all. Raises InvalidMultipart, InvalidRequest, TooLarge, and what `incoming` raises."""
        reader = MultipartReader(content_type)
        size = 0
        async for chunk in body:
            size += len(chunk)
            if size > MAX_UPLOAD_BYTES:
                raise TooLarge(f"The body is larger than {MAX_UPLOAD_BYTES} bytes.")
            for step in reader.feed(chunk):
                await self._take(step)
        reader.close()

    def document(self) -> dict[str, Any]:
        """The fields as the JSON body that says the same. Raises InvalidJson, InvalidRequest."""
        document: dict[str, Any] = {"type": "input_message"}
        for name, values in self._fields.items():
            if name == "messages":
                document[name] = [part for value in values for part in _messages(value)]
                continue
            if len(values) > 1:
                _refuse(name, "This field is given more than once.")
            document[name] = values[0]
        if "message" in document and "messages" in document:
            _refuse("messages", "Give either messages or message.")
        if not {"message", "messages"} & document.keys() and not self._incoming.described():
            _refuse("messages", "Give a text or a file.")
        if "message" in document:
            document["content"] = document.pop("message")
        if document["type"] != "input_message":
            _refuse("type", "Only an input_message can come as multipart/form-data.")
        if "stream_response" in document:
            document["stream_response"] = _boolean(document["stream_response"])
        document.pop("ttl_days", None)
        return document

    def ttl_days(self) -> int | None:
        """For how many days the files are kept; None: as long as their session. Raises InvalidRequest."""
        if "ttl_days" not in self._fields:
            return None
        text = self._fields["ttl_days"][0]
        if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MAX_TTL_DAYS:
            _refuse("ttl_days", f"Must be an integer from 1 to {MAX_TTL_DAYS}.")
        return int(text)

    async def _take(self, step: Step) -> None:
        is_file = self._part.name == _FILES
        if isinstance(step, PartBegin):
            self._begin(step)
        elif isinstance(step, PartEnd):
            if is_file:
                await self._incoming.end()
            else:
                self._fields.setdefault(self._part.name, []).append(_text(self._part.name, self._data))
        elif is_file:
            await self._incoming.write(step)
        else:
            self._left -= len(step)
            if self._left < 0:
                raise TooLarge(f"The fields of the body are larger than {MAX_BODY_BYTES} bytes.")
            self._data += step

    def _begin(self, part: PartBegin) -> None:
        self._parts += 1
        if self._parts > _MAX_PARTS:
            raise InvalidMultipart(f"The body has more than {_MAX_PARTS} parts.")
        self._part, self._data = part, bytearray()
        if part.name == _FILES:
            self._incoming.begin(part.filename, part.content_type)
        elif part.name not in _FIELDS:
            _refuse(part.name[:100], "Unknown field.")


def _messages(text: str) -> list[Any]:
    """Parts of an input: a JSON list of them, or one of several fields with one part each."""
    value = codec.decode(text.encode())
    return value if isinstance(value, list) else [value]


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        _refuse("stream_response", "Must be true or false.")
    return _BOOLEANS[text]


def _text(name: str, data: bytearray) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidMultipart(f"The field {name} is not UTF-8.") from None
    if "\0" in text:
        raise InvalidJson(f"The field {name} contains the NUL character.")
    return text


def _refuse(name: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{name}: {reason}", field_errors={name: reason})
