import time

import pytest

from sessile.tools.markup import to_text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Hi <b>you</b></p><p>there", "Hi you\nthere"),
        ("a<br>b<BR/>c", "a\nb\nc"),
        ("<ul><li>1<li>2</ul>", "1\n2"),
        ("<table><tr><td>a<td>b</tr><tr><th>c</table>", "a b\nc"),
        ("a<script>if (a<b) '</p>'</script>b<style>p{}</style>c", "abc"),
        ("a<!-- <p>no</p> -->b<!doctype html><?xml ?>c", "abc"),
        ("a<script>never closed", "a"),
        ("a<!-- never closed", "a"),
        ("a<svg><title>no</title></svg>b", "ab"),
        ("a<svg>never closed <p>b", "anever closed\nb"),
        ("1 < 2 &amp; 3 &gt; 2 &#8364; &unknown;", "1 < 2 & 3 > 2 \u20ac &unknown;"),
        ("<a title=\"x > y\" data-x='>'>z</a>", "z"),
        ("<p title=don't>it's</p>", "it's"),
        ("<p", ""),
        ("<", "<"),
        ("", ""),
        ("<p>\u0130stanbul</p>", "\u0130stanbul"),
        ("  a \t\n\n  b\u00a0c ", "a\nb c"),
    ],
)
def test_the_text_of_a_page(page: str, text: str) -> None:
    assert to_text(page)[1] == text


def test_the_title() -> None:
    assert to_text("<html><head><title>A &amp;\n B</title></head><body>C") == ("A &\nB", "C")


@pytest.mark.parametrize("piece", ["<", "<!--", '<a b="', "<svg>", "<script", "&", "</", "<a b='\"", "<!x", " \n"])
def test_no_page_takes_long(piece: str) -> None:
    """Twenty times the page takes some twenty times as long: a quadratic reader would take four hundred."""

    def seconds(size: int) -> float:
        page = (piece * size)[:size]
        started = time.process_time()
        to_text(page)
        return time.process_time() - started

    small = max(min(seconds(20_000) for _ in range(3)), 0.001)
    assert seconds(400_000) < small * 150
