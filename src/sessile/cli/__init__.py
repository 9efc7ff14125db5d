"""The `sessile` command: thin verbs; `serve` goes to compose, administration to the store of a data folder."""

from sessile.cli.app import main

__all__ = ["main"]
