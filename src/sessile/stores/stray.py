"""What no verb leaves behind in a database; queries of these names find it, in either store."""

RULES = ("stray_events", "stray_turns", "stray_sessions", "stray_agents", "stray_rows")
"""Each of them tells some of what there is, in words."""
