"""The `sessile` command. One module a command: `sessile sessions list` is `list` in `cli/sessions.py`."""

from sessile.cli.app import main

__all__ = ["main"]
