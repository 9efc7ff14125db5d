"""`python -m sessile` is the `sessile` command."""

from sessile.cli.app import main

main()
