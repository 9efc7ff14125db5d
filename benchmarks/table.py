"""The budget table: rows, their layout, and `BENCH.md`."""

import os
import platform
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

GENERATOR_LIMIT = 0.8
_HEAD = ("what", "measured", "limit", "share", "budget", "met", "generator")


class Row(Struct, kw_only=True):
    """One line. `met` is None where there is no budget; `failure` says why nothing was measured."""

    name: str
    measured: str = "-"
    limit: str = "-"
    share: str = "-"
    budget: str = "-"
    met: bool | None = None
    generator: float | None = None
    """The largest share of a core that the load generator took."""
    failure: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row as text."""
        if self.failure:
            return (self.name, "not measured", self.limit, self.share, self.budget, "?", "-")
        met = "-" if self.met is None else "yes" if self.met else "**no**"
        generator = "-" if self.generator is None else f"{self.generator:.0%}"
        if self.generator is not None and self.generator > GENERATOR_LIMIT:
            generator += " (too busy)"
        return (self.name, self.measured, self.limit, self.share, self.budget, met, generator)


def layout(rows: list[Row]) -> str:
    """The rows as a Markdown table whose columns line up, then the last line of each failure."""
    cells = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    failures = [f"\n{row.name}: {row.failure.strip().splitlines()[-1][:300]}" for row in rows if row.failure]
    return "\n".join([*lines, *failures]) + "\n"


def machine() -> str:
    """What the figures depend on."""
    return "\n".join(
        (
            f"- {os.cpu_count()} cores ({platform.machine()}), shared by server and load generator",
            f"- {platform.system()} {platform.release()}",
            f"- Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        )
    )


def write(path: Path, rows: list[Row], how: str, notes: str) -> None:
    """Write the report."""
    day = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    path.write_text(
        f"# Benchmark\n\n{day}\n\n{machine()}\n\n{layout(rows)}\n{notes}\n## How to repeat it\n\n{how}\n"
        f"This table was made by `{command}`.\n"
    )
