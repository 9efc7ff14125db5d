"""Idle followers of event streams: open many, and see what each costs the server in resident memory."""

import contextlib
import resource
import selectors
import socket
import time

from benchmarks.processes import NotMeasured, Server

_OPEN_LIMIT_SECONDS = 60.0


def raise_file_limit() -> int:
    """Let this process, and those it starts, open as many files as the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return 65_536 if soft == resource.RLIM_INFINITY else soft


def bytes_each(server: Server, paths: list[str], count: int, headers: dict[str, str]) -> float | None:
    """Resident bytes for each of `count` followers spread over `paths`; None on a system without /proc."""
    before = server.resident_bytes()
    if before is None:
        return None
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for number in range(count):
            follower = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            follower.sendall(_request(paths[number % len(paths)], server.port, headers))
            selector.register(follower, selectors.EVENT_READ)
        _await_first_bytes(selector)
        time.sleep(0.5)
        after = server.resident_bytes()
    return ((after or before) - before) / count


def _request(path: str, port: int, headers: dict[str, str]) -> bytes:
    shown = {"host": f"127.0.0.1:{port}", "accept": "text/event-stream"} | headers
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in shown.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def _await_first_bytes(selector: selectors.BaseSelector) -> None:
    deadline = time.monotonic() + _OPEN_LIMIT_SECONDS
    while selector.get_map():
        if time.monotonic() > deadline:
            raise NotMeasured(f"{len(selector.get_map())} followers got no answer")
        for key, _ in selector.select(1):
            assert isinstance(key.fileobj, socket.socket)
            head = key.fileobj.recv(4096)
            if not head.startswith(b"HTTP/1.1 200") or b"text/event-stream" not in head.lower():
                raise NotMeasured(f"following a session was answered with {head[:200]!r}")
            selector.unregister(key.fileobj)
