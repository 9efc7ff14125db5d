"""One page of metrics for several workers: whoever is asked asks the others, and says of every number whose it is.

Workers meet in a folder of their own: each listens there on a Unix socket, and answers with what it has counted.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

MetricsText = Callable[[], Awaitable[bytes]]

_SECONDS = 2.0
"""How long another worker may take; one that is busy for longer is left out, and counted as down."""
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?( \S+)")
_UP = "# HELP sessile_worker_up Whether a worker has answered for this page.\n# TYPE sessile_worker_up gauge\n"


@contextlib.asynccontextmanager
async def meet(folder: Path, number: int, workers: int, text: MetricsText) -> AsyncIterator[MetricsText]:
    """Answer the other workers; gives what tells of all of them, who are numbered from 1."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(await text())
            await writer.drain()
        writer.close()

    place = folder / str(number)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # somebody may have tidied up where temporary files are
    place.unlink(missing_ok=True)  # of a worker that has died
    server = await asyncio.start_unix_server(answer, place)

    async def of_all() -> bytes:
        numbers = range(1, workers + 1)
        pages = await asyncio.gather(*(text() if n == number else _ask(folder / str(n)) for n in numbers))
        return merged(dict(zip(numbers, pages, strict=True)))

    try:
        yield of_all
    finally:
        server.close()
        place.unlink(missing_ok=True)


def merged(pages: dict[int, bytes | None]) -> bytes:
    """The pages of several workers as one, each sample with the label `worker`; None: it did not answer."""
    families: dict[str, list[str]] = {}
    for number, page in pages.items():
        head = ""
        for line in (page or b"").decode().splitlines():
            if line.startswith("# HELP"):
                head = line
            elif line.startswith("#"):
                families.setdefault(f"{head}\n{line}", [])
                head = f"{head}\n{line}"
            elif found := _SAMPLE.match(line):
                name, labels, rest = found.groups()
                own = f'worker="{number}"'
                families[head].append(f"{name}{{{own}{',' + labels if labels else ''}}}{rest}")
    text = "".join(f"{head}\n" + "".join(f"{sample}\n" for sample in samples) for head, samples in families.items())
    up = "".join(
        f'sessile_worker_up{{worker="{number}"}} {0 if page is None else 1}\n' for number, page in pages.items()
    )
    return (text + _UP + up).encode()


async def _ask(place: Path) -> bytes | None:
    """The page of another worker."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_SECONDS):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                return await reader.read() or None
            finally:
                writer.close()
    return None
