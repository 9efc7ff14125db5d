"""HTML as the text a reader sees, in one pass whose time is linear whatever the page holds. It runs nothing."""

import html
import re

_DROPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object", "textarea", "select"})
_RAW = frozenset({"script", "style", "noscript", "iframe", "textarea"})
"""Elements whose content is no markup: only their own end tag ends them."""
_BREAKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "head",
        "header",
        "hr",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "title",
        "tr",
        "ul",
    ]
)
_CELLS = frozenset({"td", "th"})
_NAME = re.compile(r"/?([a-zA-Z][a-zA-Z0-9:-]*)")
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r" ?\n[ \n]*")


def to_text(page: str) -> tuple[str, str]:
    """The title and the text of a page: a line for each block, without scripts, styles and comments."""
    reader = _Reader(page)
    return _tidy(reader.title), _tidy(reader.text)


class _Reader:
    """One pass over a page. A search that finds nothing is never repeated, so that no page makes it quadratic."""

    def __init__(self, page: str) -> None:
        self._page = page
        self._folded = page.lower()
        if len(self._folded) != len(page):  # a few letters become longer, and places would no longer agree
            self._folded = page
        self._exhausted: set[str] = set()
        self._parts: list[str] = []
        self._title: list[str] = []
        self._in_title = False
        self._read()

    @property
    def title(self) -> str:
        return "".join(self._title)

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def _read(self) -> None:
        place = 0
        while (start := self._page.find("<", place)) >= 0:
            self._say(self._page[place:start])
            place = self._markup(start)
        self._say(self._page[place:])

    def _markup(self, start: int) -> int:
        """Read the markup at `<`; returns where it ends."""
        if self._page.startswith("<!--", start):
            return self._after("-->", start + 4)
        if self._page.startswith(("<!", "<?"), start):
            return self._after(">", start)
        match = _NAME.match(self._page, start + 1)
        if match is None:
            self._say("<")
            return start + 1
        name, closes = match[1].lower(), self._page[start + 1] == "/"
        end = self._end_of_tag(match.end())
        if name == "title":
            self._in_title = not closes
        if name in _DROPPED and not closes:
            return self._skip(name, end)
        if name in _BREAKS:
            self._say("\n")
        elif name in _CELLS:
            self._say(" ")
        return end

    def _end_of_tag(self, place: int) -> int:
        """Where a tag ends; a `>` in a quoted value does not end it."""
        while place < len(self._page):
            char = self._page[place]
            if char == ">":
                return place + 1
            quotes = char in "\"'" and self._page[place - 1] in "= \t\n"
            if quotes and (close := self._find(char, place + 1)) >= 0:
                place = close
            place += 1
        return place

    def _skip(self, name: str, place: int) -> int:
        """Where a dropped element ends. One that is not closed swallows the rest only if it holds no markup."""
        close = self._find(f"</{name}", place)
        if close < 0:
            return len(self._page) if name in _RAW else place
        return self._after(">", close)

    def _after(self, mark: str, place: int) -> int:
        found = self._find(mark, place)
        return len(self._page) if found < 0 else found + len(mark)

    def _find(self, mark: str, place: int) -> int:
        if mark in self._exhausted:
            return -1
        found = self._folded.find(mark, place)
        if found < 0:
            self._exhausted.add(mark)
        return found

    def _say(self, text: str) -> None:
        if text:
            (self._title if self._in_title else self._parts).append(text)


def _tidy(text: str) -> str:
    """Without character references, doubled spaces and empty lines."""
    return _LINES.sub("\n", _SPACES.sub(" ", html.unescape(text))).strip()
