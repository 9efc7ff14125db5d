"""Tools for the files of the session that calls them: read, search, create. No other session's files exist for them.

Results are bounded, whatever a file holds; files are read in pieces, and searched on a thread with RE2, whose time is
linear in the text.
"""

import asyncio
import re
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import msgspec
import re2
from msgspec import Struct

from sessile.domain import artifacts as rules
from sessile.ports import Files, Store, Tool, ToolContext, ToolFault
from sessile.rows import ArtifactRow, NewArtifact, SessionRef
from sessile.tools.registry import Factory
from sessile.wire import codec, ids
from sessile.wire.errors import NotFound, SessileError
from sessile.wire.limits import MAX_PATTERN_CHARS, MAX_SESSION_FILE_BYTES, MAX_SESSION_FILES, MAX_TOOL_OUTPUT_BYTES

A = TypeVar("A")

MAX_SIZE_BYTES = 262_144
MAX_LINES = 200
"""What `artifact_read` gives at most, unless its configuration says otherwise."""
MAX_MATCHES = 200
MAX_LINE_CHARS = 1_000
MAX_CONTEXT_LINES = 20
SECONDS = 30.0
"""The time that a call may take."""
_PIECE = 256 * 1024
_LONGEST_LINE = 64 * 1024
"""Bytes of a line that are searched."""
_RE2_BYTES = 8 * 1024 * 1024
_NUMBERED = re.compile(r"-([ABCm]) ?([0-9]{1,6})")
_TEXT = {"type": "string"}
_LINE = {"type": "integer", "minimum": 1}


class ReadArguments(Struct, forbid_unknown_fields=True):
    """Arguments of `artifact_read`."""

    artifact_id: str
    encoding: Literal["raw", "base64"] = "raw"
    start_line: int = 1
    end_line: int | None = None


class GrepArguments(Struct, forbid_unknown_fields=True):
    """Arguments of `artifact_grep`."""

    artifact_id: str
    pattern: str
    grep_options: list[str] = []


class CreateArguments(Struct, forbid_unknown_fields=True):
    """Arguments of `artifact_create`."""

    filename: str
    content: str
    encoding: Literal["raw", "base64"] = "raw"
    mime_type: str | None = None


def factories(store: Store, files: Files) -> dict[str, Factory]:
    """The tools by the type of their configurations."""

    def read(configuration: Mapping[str, Any]) -> Tool:
        return ArtifactRead(store, files, **configuration.get("tool_configuration", {}))

    return {
        "artifact_read": read,
        "artifact_grep": lambda configuration: ArtifactGrep(store, files),
        "artifact_create": lambda configuration: ArtifactCreate(store, files),
    }


class ArtifactRead:
    """Reads lines of a text, or the first bytes of anything in base64."""

    name = "artifact_read"
    description = "Read a file of this session: lines of a text, or the first bytes of any file in base64."
    idempotent = True

    def __init__(
        self, store: Store, files: Files, max_size_bytes: int = MAX_SIZE_BYTES, max_lines: int = MAX_LINES
    ) -> None:
        self._store = store
        self._files = files
        self._max_bytes = max_size_bytes
        self._max_lines = max_lines
        self.parameters: dict[str, Any] = {
            "type": "object",
            "properties": {
                "artifact_id": _TEXT,
                "encoding": {"enum": ["raw", "base64"], "default": "raw"},
                "start_line": {**_LINE, "default": 1},
                "end_line": {**_LINE, "description": f"At most {max_lines} lines come at once."},
            },
            "required": ["artifact_id"],
            "additionalProperties": False,
        }

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Raises ToolFault."""
        given = _converted(arguments, ReadArguments)
        end = given.start_line + self._max_lines - 1
        if given.end_line is not None:
            end = min(end, given.end_line)
        if given.start_line < 1 or (given.end_line is not None and given.end_line < given.start_line):
            raise ToolFault("tool_arguments_invalid", "Lines count from 1, and end_line is not before start_line.")
        row = await _find(self._store, context, given.artifact_id)
        if given.encoding == "base64":
            return _fitted(_shown(row), await self._first_bytes(row))
        selection = _Selection(given.start_line, end, self._max_bytes)
        await _scan(self._files, row, selection)
        found = _shown(row) | {"start_line": given.start_line, "end_line": selection.last}
        fitted = _fitted(found, selection.text(), more=selection.more)
        return fitted | {"end_line": min(selection.last, given.start_line + fitted["content"].count("\n"))}

    async def _first_bytes(self, row: ArtifactRow) -> str:
        """As many as fit into a result, a multiple of three."""
        length = min(self._max_bytes, MAX_TOOL_OUTPUT_BYTES // 4 * 3 - 3_000)
        return b64encode(await self._files.read(row.file, 0, length)).decode()


class ArtifactGrep:
    """Searches the lines of a text."""

    name = "artifact_grep"
    description = "Search a text file of this session line by line for a regular expression (RE2 syntax)."
    idempotent = True
    parameters: dict[str, Any] = {  # noqa: RUF012
        "type": "object",
        "properties": {
            "artifact_id": _TEXT,
            "pattern": {"type": "string", "maxLength": MAX_PATTERN_CHARS},
            "grep_options": {
                "type": "array",
                "items": _TEXT,
                "description": "Of -i, -v, -c, -F, -n, -E, and with a number -m, -A, -B, -C; as `-A 2`.",
            },
        },
        "required": ["artifact_id", "pattern"],
        "additionalProperties": False,
    }

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Raises ToolFault."""
        given = _converted(arguments, GrepArguments)
        search = _Search(given.pattern, GrepOptions.of(given.grep_options))
        row = await _find(self._store, context, given.artifact_id)
        await _scan(self._files, row, search)
        return search.result(_shown(row))


class ArtifactCreate:
    """Makes a file of the session, in the commit that holds the output of the call."""

    name = "artifact_create"
    description = "Create a file in this session from a text, or from bytes in base64."
    idempotent = True
    parameters: dict[str, Any] = {  # noqa: RUF012
        "type": "object",
        "properties": {
            "filename": _TEXT,
            "content": _TEXT,
            "encoding": {"enum": ["raw", "base64"], "default": "raw"},
            "mime_type": {"type": "string", "description": "Such as text/csv; by default what the name says."},
        },
        "required": ["filename", "content"],
        "additionalProperties": False,
    }

    def __init__(self, store: Store, files: Files) -> None:
        self._store = store
        self._files = files

    async def run(self, arguments: dict[str, Any], context: ToolContext) -> dict[str, Any]:
        """Raises ToolFault."""
        given = _converted(arguments, CreateArguments)
        content = _content(given)
        count, size = await self._store.count_artifacts(context.session.id)
        if count >= MAX_SESSION_FILES or size + len(content) > MAX_SESSION_FILE_BYTES:
            raise ToolFault("tool_failed", "The session cannot hold more files.")
        try:
            artifact = await self._keep(given, content, context.session.tenant_id)
        except SessileError as error:
            raise ToolFault("tool_failed", error.message) from None
        context.add_artifact(artifact)
        return {
            "artifact_id": artifact.artifact_id,
            "filename": artifact.name,
            "mime_type": artifact.content_type,
            "size_bytes": artifact.size,
        }

    async def _keep(self, given: CreateArguments, content: bytes, tenant_id: int) -> NewArtifact:
        name = rules.safe_name(given.filename)
        upload = self._files.create(tenant_id)
        try:
            await upload.write(content)
            held = await upload.keep()
        finally:
            await upload.discard()
        return NewArtifact(
            artifact_id=ids.artifact_id(),
            name=name,
            content_type=rules.media_type(given.mime_type, name, content[: rules.HEAD_BYTES]),
            size=len(content),
            sha256=held.name.sha256,
            held=held,
        )


class GrepOptions(Struct, frozen=True):
    """What the options of a search mean."""

    ignore_case: bool = False
    invert: bool = False
    count: bool = False
    literal: bool = False
    most: int = MAX_MATCHES
    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, options: list[str]) -> "GrepOptions":
        """Raises ToolFault for what is not among them."""
        flags = {"-i": "ignore_case", "-v": "invert", "-c": "count", "-F": "literal", "-n": "", "-E": ""}
        found: dict[str, Any] = {}
        for option in options:
            if option in flags:
                found |= {flags[option]: True} if flags[option] else {}
            elif (match := _NUMBERED.fullmatch(option)) is not None:
                number = int(match[2])
                names = {"m": ("most",), "A": ("after",), "B": ("before",), "C": ("before", "after")}[match[1]]
                found |= dict.fromkeys(names, min(number, MAX_MATCHES if match[1] == "m" else MAX_CONTEXT_LINES))
            else:
                known = ", ".join(flags)
                message = f"There is no option {option[:50]!r}. Options: {known}, -m N, -A N, -B N, -C N."
                raise ToolFault("tool_arguments_invalid", message)
        return cls(**found)


class _Lines:
    """Cuts pieces of a file into lines. A line is cut off after so many bytes."""

    def __init__(self, longest: int) -> None:
        self.done = False
        self._longest = longest
        self._number = 0
        self._pending = bytearray()

    def feed(self, data: bytes) -> None:
        """Go on; runs on a thread."""
        *whole, rest = data.split(b"\n")
        for line in whole:
            self._pending += line[: self._longest - len(self._pending)]
            self._end_line()
            if self.done:
                return
        self._pending += rest[: self._longest - len(self._pending)]

    def close(self) -> None:
        """The file is over; its last line may have no end."""
        if self._pending:
            self._end_line()
        self.end()

    def line(self, number: int, line: bytes) -> None:
        """A line of the file, without its end."""
        raise NotImplementedError

    def end(self) -> None:
        """There are no more lines."""

    def _end_line(self) -> None:
        self._number += 1
        line, self._pending = bytes(self._pending), bytearray()
        self.line(self._number, line)


class _Selection(_Lines):
    """Lines from one number to another, as many as fit."""

    def __init__(self, start: int, end: int, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.last = start - 1
        self.more = True
        self._cut = False
        self._start = start
        self._end = end
        self._left = max_bytes
        self._lines: list[bytes] = []

    def line(self, number: int, line: bytes) -> None:
        if number < self._start:
            return
        if number > self._end or self._left <= 0:
            self.done = True
            return
        self._cut = len(line) > self._left or len(line) == self._longest
        self._lines.append(line[: self._left])
        self._left -= len(line) + 1
        self.last = number

    def end(self) -> None:
        self.more = self._cut

    def text(self) -> str:
        """What was selected. Raises ToolFault when it is no text."""
        found = b"\n".join(self._lines)
        if b"\0" in found:
            raise ToolFault("tool_arguments_invalid", "This file is no text; ask for the encoding base64.")
        return found.decode("utf-8", "replace")


class _Search(_Lines):
    """Lines that match, with those around them."""

    def __init__(self, pattern: str, options: GrepOptions) -> None:
        super().__init__(_LONGEST_LINE)
        self._options = options
        self._pattern = _compiled(pattern, options)
        self._before = deque[tuple[int, str]](maxlen=options.before)
        self._follow = 0
        self._found: list[dict[str, Any]] = []
        self._count = 0
        self._more = True

    def line(self, number: int, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        matches = (self._pattern.search(text) is not None) is not self._options.invert
        if matches and self._count == self._options.most and not self._options.count:
            self.done = True
            return
        if matches:
            self._count += 1
            self._follow = self._options.after
            for earlier in self._before:
                self._add(*earlier, context=True)
            self._before.clear()
            self._add(number, text)
        elif self._follow:
            self._follow -= 1
            self._add(number, text, context=True)
        else:
            self._before.append((number, text[:MAX_LINE_CHARS]))

    def end(self) -> None:
        self._more = False

    def result(self, shown: dict[str, Any]) -> dict[str, Any]:
        """What was found, as large as a result may be."""
        if self._options.count:
            return shown | {"count": self._count}
        found, more = self._found, self._more
        while True:
            result = shown | {"count": self._count, "lines": found, "truncated": more}
            if len(codec.encode(result)) <= MAX_TOOL_OUTPUT_BYTES:
                return result
            found, more = found[: len(found) // 2], True

    def _add(self, number: int, text: str, *, context: bool = False) -> None:
        if self._options.count:
            return
        if len(self._found) >= MAX_MATCHES:
            self.done = True
            return
        cut = text[:MAX_LINE_CHARS].replace("\0", "\ufffd")
        self._found.append({"line": number, "text": cut} | ({"context": True} if context else {}))


def _compiled(pattern: str, options: GrepOptions) -> Any:
    if not pattern or len(pattern) > MAX_PATTERN_CHARS:
        raise ToolFault("tool_arguments_invalid", f"The pattern has 1 to {MAX_PATTERN_CHARS} characters.")
    settings = re2.Options()
    settings.case_sensitive = not options.ignore_case
    settings.literal = options.literal
    settings.max_mem = _RE2_BYTES
    settings.log_errors = False
    try:
        return re2.compile(pattern, settings)
    except re2.error as error:
        raise ToolFault("tool_arguments_invalid", f"The pattern is not valid: {error}") from None


async def _scan(files: Files, row: ArtifactRow, lines: _Lines) -> None:
    """Feed a file to whoever takes its lines, until that is done. Raises ToolFault."""
    place = 0
    try:
        async with asyncio.timeout(SECONDS):
            while not lines.done and place < row.size:
                data = await files.read(row.file, place, _PIECE)
                if not data:
                    break
                place += len(data)
                await asyncio.to_thread(lines.feed, data)
            if not lines.done:
                lines.close()
    except TimeoutError:
        raise ToolFault("tool_timeout", f"The file took longer than {SECONDS:g} seconds.") from None
    except SessileError as error:
        raise ToolFault("tool_failed", error.message) from None


async def _find(store: Store, context: ToolContext, artifact_id: str) -> ArtifactRow:
    session = context.session
    try:
        row = await store.get_artifact(SessionRef(session.tenant_id, session.agent_key, session.key), artifact_id)
    except NotFound:
        row = None
    if row is None or row.session_id != session.id:  # a session of the same name that came later is another one
        raise ToolFault("tool_arguments_invalid", f"This session has no artifact {artifact_id[:100]!r}.")
    return row


def _converted(arguments: dict[str, Any], kind: type[A]) -> A:
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise ToolFault("tool_arguments_invalid", codec.invalid_field(str(error)).message) from None


def _content(given: CreateArguments) -> bytes:
    if given.encoding == "raw":
        return given.content.encode()
    try:
        return b64decode(given.content, validate=True)
    except ValueError:
        raise ToolFault("tool_arguments_invalid", "The content is not base64.") from None


def _shown(row: ArtifactRow) -> dict[str, Any]:
    return {
        "artifact_id": row.artifact_id,
        "filename": row.name,
        "mime_type": row.content_type,
        "size_bytes": row.size,
    }


def _fitted(shown: dict[str, Any], content: str, more: bool | None = None) -> dict[str, Any]:
    """A result with as much of the content as may be; characters that JSON escapes take several bytes."""
    if more is None:
        more = len(content) < (shown["size_bytes"] + 2) // 3 * 4
    while True:
        result = shown | {"content": content, "truncated": more}
        if len(codec.encode(result)) <= MAX_TOOL_OUTPUT_BYTES:
            return result
        content, more = content[: len(content) // 2], True
