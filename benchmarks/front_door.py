"""What everybody waits for before anything happens: the import, and the help of the command line."""

import statistics
import subprocess
import sys
import time

from benchmarks.table import Row

MAX_IMPORT_SECONDS = 0.25
MAX_HELP_SECONDS = 0.4


def measure(starts: int) -> list[Row]:
    """Whole processes, beside one that does nothing."""
    nothing = _seconds(starts, "-c", "pass")

    def row(name: str, budget: float, *arguments: str) -> Row:
        seconds = _seconds(starts, *arguments)
        limit = f"{nothing:.2f} s (a Python process)"
        return Row(name=name, measured=f"{seconds:.2f} s", limit=limit, budget=f"≤ {budget} s", met=seconds <= budget)

    return [
        row("a process that does `import sessile`", MAX_IMPORT_SECONDS, "-c", "import sessile"),
        row("`sessile --help`", MAX_HELP_SECONDS, "-m", "sessile", "--help"),
    ]


def _seconds(starts: int, *arguments: str) -> float:
    """The median time of a Python process; the first one, which may read from disk, does not count."""
    spent = []
    for _ in range(starts + 1):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent[1:])
