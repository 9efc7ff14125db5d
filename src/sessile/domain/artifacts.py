"""Rules over files that come in: which name and type they get, and what a model is told of them. Pure.

Both the name and the type of a file are a caller's word. The name is reduced to one that is no path on any system. The
type is kept only where the first bytes do not speak against it, and is never what a file is served as.
"""

import mimetypes
import re
import unicodedata
from collections.abc import Iterable

from sessile.wire.events import ArtifactReference
from sessile.wire.limits import MAX_FILE_NAME_CHARS, MAX_MEDIA_TYPE_CHARS

UNKNOWN = "application/octet-stream"
HEAD_BYTES = 1024
"""How much of a file is looked at."""
_SIGNATURES = {
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "image/gif": (b"GIF87a", b"GIF89a"),
    "application/pdf": (b"%PDF-",),
    "application/zip": (b"PK\x03\x04", b"PK\x05\x06"),
    "application/gzip": (b"\x1f\x8b",),
}
_WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)
_TEXT = re.compile(r"text/|application/(json|xml|yaml|toml|javascript|x-sh|x-python)$|.*\+(json|xml)$")
_TOKEN = r"[0-9A-Za-z!#$&^_.+-]{1,127}"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_FORBIDDEN = re.compile(r'[<>:"|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_LONGEST_SUFFIX = 20
_BY_NAME = mimetypes.MimeTypes(filenames=())
"""Without the tables of the machine: the same name means the same type everywhere."""
for _kind, _suffix in (("text/markdown", ".md"), ("application/yaml", ".yaml"), ("application/yaml", ".yml")):
    _BY_NAME.add_type(_kind, _suffix)


def safe_name(given: str | None) -> str:
    """A file name that is no path, no device and not hidden, whatever was given; `file` when nothing is left of it."""
    name = re.split(r"[/\\]", given or "")[-1]
    name = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    name = "".join(character for character in name if unicodedata.category(character) not in ("Cc", "Cf", "Zl", "Zp"))
    name = _FORBIDDEN.sub("_", name).strip(" .") or "file"
    if _DEVICES.fullmatch(name):
        name = f"_{name}"
    if len(name) > MAX_FILE_NAME_CHARS:
        stem, dot, suffix = name.rpartition(".")
        tail = f".{suffix}" if dot and len(suffix) <= _LONGEST_SUFFIX else ""
        name = (stem if tail else name)[: MAX_FILE_NAME_CHARS - len(tail)] + tail
    return name


def media_type(declared: str | None, name: str, head: bytes) -> str:
    """The type of a file: what its first bytes say, else what was declared, if these allow it, else what its name says.

    A declared type that has a signature counts only with it; a text has no NUL.
    """
    seen = _signed(head)
    given = (declared or "").partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(given) or len(given) > MAX_MEDIA_TYPE_CHARS or given == UNKNOWN:
        given = ""
    given = given or _BY_NAME.guess_type(name)[0] or ("" if seen or not _is_text(head) else "text/plain")
    if given in _SIGNATURES or given == "image/webp":
        return given if given == seen else seen or UNKNOWN
    if _TEXT.match(given):
        return given if seen is None and b"\0" not in head else seen or UNKNOWN
    if given.startswith("image/"):
        return seen or given
    return given or seen or UNKNOWN


def remark(artifacts: Iterable[ArtifactReference]) -> str:
    """What a model is told of files that a user has sent."""
    lines = [f"- {one.filename} (artifact_id {one.artifact_id}, {one.mime_type}, {_size(one)})" for one in artifacts]
    return "\n".join(["The user has sent these files:", *lines])


def _size(artifact: ArtifactReference) -> str:
    return f"{artifact.size_bytes} byte" + ("" if artifact.size_bytes == 1 else "s")


def _signed(head: bytes) -> str | None:
    if _WEBP.match(head):
        return "image/webp"
    for kind, signatures in _SIGNATURES.items():
        if head.startswith(signatures):
            return kind
    return None


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and error.start >= len(head) - 3
    return True
