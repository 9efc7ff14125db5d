"""Kills a real server under load, again and again, and checks what it promised. `python -m chaos --help`."""
