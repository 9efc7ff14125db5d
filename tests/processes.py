"""Processes beside the tests, as `ps` sees them."""

import asyncio
import re
import subprocess

WAIT_SECONDS = 30.0
"""The bound of every wait: it is reached only when a test fails."""


_OTHERS = re.compile(r"^ps |postgres")


def children(parent: int) -> list[int]:
    """The child processes of a process, dead ones that nobody has waited for too; not the databases of other tests."""
    listed = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    return [int(pid) for pid, ppid, command in rows if int(ppid) == parent and not _OTHERS.search(command)]


def runs(pid: int) -> bool:
    """Whether the process is there and not dead."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.strip().startswith("Z")


async def gone(pid: int) -> None:
    """Wait for the end of a process. Raises TimeoutError."""
    async with asyncio.timeout(WAIT_SECONDS):
        while await asyncio.to_thread(runs, pid):  # noqa: ASYNC110 - it is nobody's child here
            await asyncio.sleep(0.02)
