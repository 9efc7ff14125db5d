"""The port of whoever carries messages between the nodes of one store."""

from collections.abc import Callable
from typing import Protocol


class Relay(Protocol):
    """Messages between the processes on one store: in order from each to each, every one once, or not at all.

    Nothing here blocks or raises. What cannot be sent soon is dropped, so that no memory is held for a node that is
    slow or gone.
    """

    def send(self, message: bytes, node: str | None = None) -> None:
        """Send a message, of JSON on one line, to one node, or to all others."""

    def receive(self, heard: Callable[[str, bytes | None], None]) -> None:
        """Call `heard` with every message and the node it is from; with None when any may have been lost."""
