"""The client of a command: which server it talks to, and what is said when nobody answers there."""

import contextlib
from collections.abc import Iterator

import typer

from sessile.cli.options import DEFAULT_URL
from sessile.client import Client, ServerUnreachable


@contextlib.contextmanager
def server(url: str | None, api_key: str | None) -> Iterator[Client]:
    """A client for a `with` block. Raises SessileError; of a server that is not there it tells how to start one."""
    with _client(url, api_key) as client:
        try:
            yield client
        except ServerUnreachable:
            raise ServerUnreachable(absent(url)) from None


def _client(url: str | None, api_key: str | None) -> Client:
    try:
        return Client(url, api_key)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--url or --api-key") from None


def absent(url: str | None) -> str:
    """What a person does when no server answers."""
    where = url or DEFAULT_URL
    return f"No Sessile server answers at {where}. Start one with `sessile serve` (or `make run`), or set SESSILE_URL."
