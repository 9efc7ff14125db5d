"""MCP servers in processes of their own: one from PyPI that we did not write, and one of the library that reports."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

WAIT_SECONDS = 60.0
ECHO = str(Path(sys.executable).with_name("mcp-echo-streamablehttp-server-stateless"))
VERSIONS = {"MCP_PROTOCOL_VERSIONS_SUPPORTED": "2025-11-25,2025-06-18"}
REPORTING = """
import asyncio
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("reporting")


@server.tool()
async def count(to: int, context: Context) -> int:
    "Count, and tell how far it is."
    for number in range(1, to + 1):
        await context.report_progress(number, to, f"counted {number}")
    return to


@server.tool()
async def hang() -> str:
    "Never answer."
    await asyncio.Event().wait()
    return ""


@server.tool()
async def fail() -> str:
    "Go wrong."
    raise RuntimeError("out of order")


server.run(transport=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]))
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: Sequence[str], port: int, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A process that listens on the port once the block starts, and is ended after it."""
    process = subprocess.Popen(
        command, env={**os.environ, **(env or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert process.poll() is None, "the tool server has ended"
            assert time.monotonic() < deadline, "the tool server does not listen"
            time.sleep(0.05)
        yield
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)


@contextmanager
def echo() -> Iterator[str]:
    """The URL of the echo server from PyPI, over streamable HTTP."""
    port = free_port()
    with running([ECHO, "--port", str(port)], port, VERSIONS):
        yield f"http://127.0.0.1:{port}/mcp"


@contextmanager
def reporting(transport: str) -> Iterator[str]:
    """The URL of a server that reports progress, hangs and fails on request."""
    port = free_port()
    with running([sys.executable, "-c", REPORTING, transport, str(port)], port):
        yield f"http://127.0.0.1:{port}/{'sse' if transport == 'sse' else 'mcp'}"
