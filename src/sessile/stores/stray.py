"""What no verb leaves behind in a database: the same queries find it in every store."""

from sessile.stores.queries import load_queries

RULES = load_queries("sessile.stores", "stray.sql")
"""Queries by their names; each tells some of what there is, in words."""
