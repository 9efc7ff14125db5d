"""Lists: page by page, or item by item as if there were no pages."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from msgspec import Struct

from sessile.client.errors import UnexpectedAnswer

T = TypeVar("T")


class Page(Struct, Generic[T], frozen=True):
    """One page. `page_key` asks for the next one; None: this is the last. A page may be empty and not be the last."""

    items: list[T]
    page_key: str | None


class AsyncPages(Generic[T]):
    """A list that is read as far as it is asked for.

    Iterate over it for its items; `pages()` gives whole pages, and `page()` a single one, for a program that keeps the
    page key itself.
    """

    def __init__(self, fetch: Callable[[str | None], Awaitable[Page[T]]]) -> None:
        self._fetch = fetch

    async def page(self, page_key: str | None = None) -> Page[T]:
        """The page that `page_key` asks for; the first one without it."""
        return await self._fetch(page_key)

    async def pages(self) -> AsyncIterator[Page[T]]:
        """All pages, one request each."""
        key = None
        while True:
            page = await self._fetch(key)
            if page.page_key is not None and page.page_key == key:
                raise UnexpectedAnswer("The server gave the same page key twice in a row.")
            yield page
            key = page.page_key
            if key is None:
                return

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page.items:
                yield item
