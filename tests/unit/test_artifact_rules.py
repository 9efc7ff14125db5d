"""Names and types of files: a caller's word, and what is made of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessile.domain.artifacts import media_type, remark, safe_name
from sessile.wire.events import ArtifactReference

PNG, ZIP = b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("report.csv", "report.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\me\\a.txt", "a.txt"),
        ("/", "file"),
        ("..", "file"),
        ("", "file"),
        (None, "file"),
        (" .hidden. ", "hidden"),
        ("a\0b\r\n.txt", "ab.txt"),
        ("exe.\u202etxt", "exe.txt"),
        ('a<b>:"c"|?*.txt', "a_b___c____.txt"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("lpt9.tar.gz", "_lpt9.tar.gz"),
        ("console.txt", "console.txt"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("\ud800.txt", "_.txt"),
        ("x" * 300, "x" * 255),
        ("x" * 300 + ".txt", "x" * 251 + ".txt"),
        ("x." + "y" * 300, ("x." + "y" * 300)[:255]),
    ],
)
def test_names(given: str | None, name: str) -> None:
    assert safe_name(given) == name


@given(st.text())
def test_a_name_is_never_a_path(given: str) -> None:
    name = safe_name(given)
    assert 1 <= len(name) <= 255
    assert not {"/", "\\", "\0", "\n"} & set(name)
    assert name not in (".", "..")
    assert name.encode()


@pytest.mark.parametrize(
    ("declared", "name", "head", "kind"),
    [
        ("image/png", "a.png", PNG, "image/png"),
        ("IMAGE/PNG; x=y", "a", PNG, "image/png"),
        ("image/png", "a.png", b"<html>", "application/octet-stream"),
        ("image/png", "a.png", ZIP, "application/zip"),
        ("image/webp", "a", b"RIFF1234WEBPVP8 ", "image/webp"),
        ("image/webp", "a", b"RIFF", "application/octet-stream"),
        ("image/svg+xml", "a.svg", b"<svg/>", "image/svg+xml"),
        ("image/bmp", "a", PNG, "image/png"),
        ("text/html", "a.html", b"<html>", "text/html"),
        ("text/plain", "a", b"a\0b", "application/octet-stream"),
        ("application/json", "a", PNG, "image/png"),
        ("application/vnd.ms-word", "a.docx", ZIP, "application/vnd.ms-word"),
        (None, "a.csv", b"a,b", "text/csv"),
        (None, "a.md", b"# A", "text/markdown"),
        (None, "a.csv", b"a\0b", "application/octet-stream"),
        (None, "a.unknown", b"text", "text/plain"),
        (None, "a", "\u00fc".encode()[:1], "text/plain"),
        (None, "a", b"\xff\xfe", "application/octet-stream"),
        (None, "a", PNG, "image/png"),
        ("no type", "a", b"text", "text/plain"),
        ("a/" + "b" * 300, "a", b"text", "text/plain"),
        ("application/octet-stream", "a.pdf", b"%PDF-1.7", "application/pdf"),
    ],
)
def test_types(declared: str | None, name: str, head: bytes, kind: str) -> None:
    assert media_type(declared, name, head) == kind


def test_what_a_model_is_told() -> None:
    files = [
        ArtifactReference(artifact_id=f"art_{n}", filename=f"{n}.txt", mime_type="text/plain", size_bytes=n)
        for n in (1, 2)
    ]
    assert remark(files) == (
        "The user has sent these files:\n"
        "- 1.txt (artifact_id art_1, text/plain, 1 byte)\n"
        "- 2.txt (artifact_id art_2, text/plain, 2 bytes)"
    )
