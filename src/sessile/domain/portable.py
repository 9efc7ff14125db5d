"""An exported session as bytes: written line by line, and read again with every rule of a transcript checked. Pure."""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from sessile.domain import artifacts, copies
from sessile.domain.log import COMPACTED, DELETED, HIDDEN, VISIBLE, Entry, draft
from sessile.domain.transcript import TranscriptCheck
from sessile.domain.visibility import erased
from sessile.wire import codec, ids
from sessile.wire.errors import InvalidJson, InvalidRequest, TooLarge, TranscriptInvalid
from sessile.wire.events import RECORD_TYPES, VISIBILITY_TYPES, AnyEvent, ArtifactUploadEvent
from sessile.wire.limits import (
    MAX_FILE_BYTES,
    MAX_IMPORT_BYTES,
    MAX_IMPORT_EVENTS,
    MAX_IMPORT_LINE_BYTES,
    MAX_JSON_DEPTH,
    MAX_SESSION_FILE_BYTES,
    MAX_SESSION_FILES,
)
from sessile.wire.portable import AgentLine, DataLine, EndLine, EventLine, FileLine, Line, SessionLine

_LINE: Any = Line  # a union is no `type` to the type checker
_MAX_DEPTH = MAX_JSON_DEPTH + 2
"""What a log holds was a body of its own, or a part of one; in a line it stands two levels deeper."""
_TURN_ID = re.compile(r"trn_[0-9a-f]{20}")
_WHY = {COMPACTED: "compacted", DELETED: "deleted"}
_VISIBILITY = {why: visibility for visibility, why in _WHY.items()}
_STARTS = {
    **dict.fromkeys((VISIBLE, HIDDEN), b'{"kind":"event","event":'),
    **{visibility: b'{"kind":"event","visibility":"%s","event":' % why.encode() for visibility, why in _WHY.items()},
}


class File(Struct, frozen=True, kw_only=True):
    """A file of an import; its bytes come next."""

    artifact_id: str
    name: str
    content_type: str
    size: int
    sha256: str
    ttl_days: int | None
    created_at: int


Item = Entry | File | bytes
"""What an import gives: an event, a file, the next bytes of that file."""


class Export:
    """The lines of one session."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        """The ids of the files that its events tell of."""
        self._digest = sha256()
        self._events = 0

    def head(self, session: SessionLine, agent: AgentLine) -> bytes:
        """The first two lines."""
        return self._lines([codec.encode(session), codec.encode(agent)])

    def events(self, entries: Sequence[Entry]) -> bytes:
        """A line for each event."""
        self._events += len(entries)
        for entry in entries:
            if entry.type == "artifact_upload":
                self.told.update(_told(entry.event()))
        return self._lines([_STARTS[entry.visibility] + entry.json + b"}" for entry in entries])

    def file(self, line: FileLine) -> bytes:
        """The line of a file."""
        return self._lines([codec.encode(line)])

    def data(self, piece: bytes) -> bytes:
        """The next bytes of this file."""
        return self._lines([codec.encode(DataLine(base64=b64encode(piece).decode()))])

    def end(self) -> bytes:
        """The last line."""
        return codec.encode(EndLine(events=self._events, sha256=self._digest.hexdigest())) + b"\n"

    def _lines(self, lines: list[bytes]) -> bytes:
        data = b"".join(line + b"\n" for line in lines)
        self._digest.update(data)
        return data


class Import:
    """Takes the bytes of an export as they come, and gives its events and files as they are complete.

    What is wrong is raised with the number of its line: InvalidRequest for a file that is no export, TranscriptInvalid
    for events that no session may have; TooLarge for the whole, files not counted.
    """

    def __init__(self) -> None:
        self.session: SessionLine | None = None
        """The first line, once it was read."""
        self.ended = False
        self._check = TranscriptCheck()
        self._digest = sha256()
        self._rest = b""
        self._number = self._size = self._events = 0
        self._last: AnyEvent | None = None
        """The last event so far. No other is kept: a turn of an export may be as large as the whole."""
        self._files = _Files()

    def lines(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, to be taken in turn; also the beginning of one that is too long."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [*lines, self._rest] if len(self._rest) > MAX_IMPORT_LINE_BYTES else lines

    def feed(self, data: bytes) -> Iterator[Item]:
        """The events, files and bytes of files of the lines that `data` completes."""
        for line in self.lines(data):
            if (item := self.take(line)) is not None:
                yield item

    def take(self, line: bytes) -> Item | None:
        """The event, file, or bytes of a file of the next line. A large one takes seconds."""
        item = self._read(line)
        if self._size > MAX_IMPORT_BYTES:
            raise TooLarge(f"The export is larger than {MAX_IMPORT_BYTES} bytes, its files not counted.")
        return item

    @property
    def digest(self) -> bytes:
        """The SHA-256 of all bytes before the last line; that line only repeats it, and says how many events came."""
        return self._digest.digest()

    def end(self, repair: bool, now: int) -> list[Entry]:
        """At the end of the file: with `repair`, the events that end a turn which the export leaves open."""
        if not self.ended or self._rest:
            self._number += 1
            raise self._wrong("The export ends here without its last line.")
        last, ending = self._last, copies.closed(self._check.state, self._last)
        if ending.turn_id is None or last is None:
            return []
        if not repair:
            raise TranscriptInvalid(
                f"The turn {ending.turn_id} has not ended at sequence {last.sequence}, event {last.id}. "
                "It can be ended here: ask for a repair."
            )
        head = self._check.state.last_sequence
        return [
            Entry(ids.event_id(sequence), "", sequence, ending.turn_id, item.type, now, VISIBLE, item.body)
            for sequence, item in enumerate(map(draft, ending.events), head + 1)
        ]

    def _read(self, line: bytes) -> Item | None:
        self._number += 1
        if len(line) > MAX_IMPORT_LINE_BYTES:
            raise self._wrong(f"The line is longer than {MAX_IMPORT_LINE_BYTES} bytes.")
        if self.ended:
            raise self._wrong("The export has ended before this line.")
        item = self._parsed(line)
        if self._number == 1 or isinstance(item, SessionLine):
            if self._number != 1 or not isinstance(item, SessionLine):
                raise self._wrong("The first line, and no other, is the session.")
            self.session = item
        elif self._number == 2 or isinstance(item, AgentLine):
            if self._number != 2 or not isinstance(item, AgentLine):
                raise self._wrong("The second line, and no other, is the agent.")
        elif isinstance(item, EndLine):
            self._close(item)
        if not self.ended:
            self._digest.update(line + b"\n")
        if isinstance(item, FileLine | DataLine):
            return self._of_a_file(item)
        self._size += len(line) + 1
        return self._event(item) if isinstance(item, EventLine) else None

    def _of_a_file(self, item: FileLine | DataLine) -> File | bytes:
        try:
            if isinstance(item, DataLine):
                return self._files.go_on(item)
            return self._files.begin(item, self._micros(item.created_at))
        except ValueError as error:
            raise self._wrong(str(error)) from None

    def _parsed(self, line: bytes) -> Line:
        try:
            item: Line = codec.convert(codec.decode(line, _MAX_DEPTH), _LINE)
        except InvalidJson as error:
            raise self._wrong(error.message.replace("The body", "The line", 1)) from None
        except InvalidRequest as error:
            raise self._wrong(error.message) from None
        return item

    def _close(self, line: EndLine) -> None:
        self.ended = True
        if self._files.left:
            raise self._wrong("The last file is not complete.")
        if line.events != self._events:
            raise self._wrong(f"The export has {self._events} events, and its last line says {line.events}.")
        if line.sha256 != self._digest.hexdigest():
            raise self._wrong("The lines before are not those that were exported: their SHA-256 is another.")

    def _event(self, line: EventLine) -> Entry:
        event = line.event
        if self._files.count:
            raise self._wrong("An event stands behind a file.")
        self._events += 1
        if self._events > MAX_IMPORT_EVENTS:
            raise self._wrong(f"There are more than {MAX_IMPORT_EVENTS} events.")
        kind = str(event.__struct_config__.tag)
        in_turn = event.turn_id == "" if kind in VISIBILITY_TYPES else _TURN_ID.fullmatch(event.turn_id)
        if ids.sequence_of(event.id) != event.sequence or not in_turn:
            raise self._wrong("The id of the event, or of its turn, is not one that a server of this kind makes.")
        visibility = self._visibility(line, kind)
        for violation in self._check.feed(event):
            raise TranscriptInvalid(
                f"Line {self._number}, sequence {violation.sequence}, event {violation.event_id}: "
                f"{violation.rule}: {violation.message}"
            )
        if isinstance(event, ArtifactUploadEvent) and visibility != DELETED:
            self._files.told.update(_told(event))
        self._last = event
        bare = replace(event, id="", session_key="", created_at="", sequence=0, turn_id="", hidden=False)
        body = (erased(bare) if visibility == DELETED else draft(bare)).body
        return Entry(
            event.id, "", event.sequence, event.turn_id, kind, self._micros(event.created_at), visibility, body
        )

    def _visibility(self, line: EventLine, kind: str) -> int:
        if not line.event.hidden:
            if line.visibility is UNSET:
                return VISIBLE
            raise self._wrong("An event that is not hidden has no visibility.")
        visibility = HIDDEN if line.visibility is UNSET else _VISIBILITY[line.visibility]
        if visibility == DELETED and kind in RECORD_TYPES:
            raise self._wrong("A record is never deleted.")
        return visibility

    def _micros(self, told: str) -> int:
        try:
            time = datetime.fromisoformat(told)
            micros = int(time.replace(microsecond=0).timestamp()) * 1_000_000 + time.microsecond
            if time.tzinfo is not None and codec.rfc3339(micros) == told:
                return micros
        except (ValueError, OverflowError, OSError):
            pass
        raise self._wrong("created_at is not a time such as 2026-01-31T09:30:00.000000Z.")

    def _wrong(self, reason: str) -> InvalidRequest:
        field = f"line {self._number}"
        return InvalidRequest(f"{field}: {reason}", field_errors={field: reason})


class _Files:
    """The files of an import. What is wrong is a ValueError."""

    def __init__(self) -> None:
        self.told: set[str] = set()
        """The ids of the files that events tell of, and that have not come."""
        self.count = 0
        self.left = 0
        """How many bytes of the last file have not come."""
        self._size = 0
        self._sha256 = ""
        self._digest = sha256()

    def begin(self, line: FileLine, created_at: int) -> File:
        """A file starts."""
        if self.left:
            raise ValueError("The file before this one is not complete.")
        if line.artifact_id not in self.told:
            raise ValueError(f"No event tells of the file {line.artifact_id}, or it has come before.")
        if line.filename != artifacts.safe_name(line.filename):
            raise ValueError("The file has a name that no file of a session has.")
        self.told.discard(line.artifact_id)
        self.count += 1
        self._size += line.size_bytes
        if line.size_bytes > MAX_FILE_BYTES:
            raise ValueError(f"The file is larger than {MAX_FILE_BYTES} bytes.")
        if self.count > MAX_SESSION_FILES or self._size > MAX_SESSION_FILE_BYTES:
            raise ValueError(f"More than {MAX_SESSION_FILES} files, or than {MAX_SESSION_FILE_BYTES} bytes of files.")
        self.left, self._sha256, self._digest = line.size_bytes, line.sha256, sha256()
        self._check()
        return File(
            artifact_id=line.artifact_id,
            name=line.filename,
            content_type=line.mime_type,
            size=line.size_bytes,
            sha256=line.sha256,
            ttl_days=None if line.ttl_days is UNSET else line.ttl_days,
            created_at=created_at,
        )

    def go_on(self, line: DataLine) -> bytes:
        """The next bytes of the file."""
        try:
            data = b64decode(line.base64, validate=True)
        except ValueError:
            raise ValueError("The bytes of the file are not base64.") from None
        if not data or len(data) > self.left:
            raise ValueError("There are more bytes here than the file has, or none.")
        self.left -= len(data)
        self._digest.update(data)
        self._check()
        return data

    def _check(self) -> None:
        if not self.left and self._digest.hexdigest() != self._sha256:
            raise ValueError("The bytes of the file are not those that were exported: their SHA-256 is another.")


def _told(event: AnyEvent) -> list[str]:
    """The ids of the files that an event tells of."""
    return [one.artifact_id for one in event.artifacts] if isinstance(event, ArtifactUploadEvent) else []
