"""The page for people: `/docs` shows the OpenAPI document, with scripts and styles that are shipped.

Nothing comes from another host. What is served is this module's table of files; a path of a request never names a file.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import Response

Page = Callable[[], Awaitable[Response]]

_OURS = Path(__file__).parent / "assets"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI sets the style attribute of elements
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_ASSET_CACHE = "max-age=3600"


async def _home() -> Response:
    """GET /"""
    return Response(status_code=307, headers={"location": "/docs", **_headers()})


async def _file(name: str, media_type: str, caching: str = "no-cache") -> Response:
    return Response(await asyncio.to_thread(_content, name), 200, _headers(caching), media_type)


def _headers(caching: str = "no-cache") -> dict[str, str]:
    return {
        "content-security-policy": _POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": caching,
    }


@cache
def _content(name: str) -> bytes:
    """A file, read once: readers share it, however slowly they take it."""
    folder = _swagger() if name.startswith("swagger_") else _OURS
    return (folder / name).read_bytes()


def _swagger() -> Path:
    """The folder with Swagger UI. The package is only found, never imported: importing it reads 9 MB."""
    spec = find_spec("offapi")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package offapi, which holds Swagger UI, is not installed")
    return Path(spec.submodule_search_locations[0])


PAGES: dict[str, Page] = {
    "/": _home,
    "/docs": partial(_file, "docs.html", "text/html"),
    "/docs/docs.js": partial(_file, "docs.js", "text/javascript", _ASSET_CACHE),
    "/docs/swagger_bundle.js": partial(_file, "swagger_bundle.js", "text/javascript", _ASSET_CACHE),
    "/docs/swagger_style.css": partial(_file, "swagger_style.css", "text/css", _ASSET_CACHE),
}
"""Every path that is answered here, to GET."""
