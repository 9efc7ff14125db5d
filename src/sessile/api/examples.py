"""Example requests of the OpenAPI document. Each works on any server, in the order agent, session, input, change."""

from typing import Any

from msgspec import Struct


class Example(Struct, frozen=True):
    """The body of a request."""

    name: str
    summary: str
    value: dict[str, Any]


AGENT_KEY = "helper"
SESSION_KEY = "first"

AGENT = (
    Example(
        "smallest",
        "The least there can be",
        {"key": AGENT_KEY, "name": "Helper", "model": {"name": "demo"}},
    ),
    Example(
        "instructed",
        "With instructions that are rendered for each turn",
        {
            "key": AGENT_KEY,
            "name": "Helper",
            "description": "Answers questions about the shop.",
            "model": {"name": "demo", "parameters": {"temperature": 0.2}},
            "first_step": {
                "name": "support",
                "instructions": [
                    {
                        "type": "inline",
                        "name": "persona",
                        "template": "You are ${agent.name}. Today is ${currentDate}. ${agent.metadata.tone}",
                    }
                ],
            },
            "metadata": {"tone": "Be brief and friendly."},
        },
    ),
    Example(
        "asking",
        "With another agent as a tool",
        {
            "key": AGENT_KEY,
            "name": "Helper",
            "model": {"name": "demo"},
            "tool_configurations": {
                "research": {
                    "type": "sub_agent",
                    "description": "Find out what the documents of the shop say",
                    "sub_agent_configuration": {"agent_key": "researcher", "session_mode": "session_scoped"},
                }
            },
        },
    ),
)
AGENT_CHANGE = (
    Example("model", "Another model", {"model": {"name": "demo"}}),
    Example("disable", "Take no more input", {"enabled": False}),
    Example("enable", "Take input again", {"enabled": True}),
)
SECRETS = (Example("token", "One secret; others are removed", {"secrets": {"shop_token": "s3cr3t"}}),)
SECRETS_CHANGE = (
    Example("set", "Set one; others stay", {"secrets": {"shop_token": "s3cr3t"}}),
    Example("remove", "Remove one", {"secrets": {"shop_token": None}}),
)
TOOL_SERVER = (
    Example(
        "smallest",
        "A server without credentials",
        {"name": "Clock", "type": "mcp", "uri": "https://mcp.example.com/mcp", "transport": "streamable-http"},
    ),
    Example(
        "authorized",
        "With a bearer token, which no answer shows",
        {
            "name": "Tickets",
            "type": "mcp",
            "uri": "https://mcp.example.com/mcp",
            "transport": "streamable-http",
            "auth": {"type": "bearer", "token": "secret"},
        },
    ),
)
TOOL_SERVER_CHANGE = (Example("disable", "Offer none of its tools", {"enabled": False}),)
TOOL_CHANGE = (Example("disable", "Do not offer this tool", {"type": "mcp", "enabled": False}),)
SESSION = (
    Example(
        "labelled",
        "With a key, a name and metadata",
        {"key": SESSION_KEY, "name": "First talk", "metadata": {"end_user_id": "user_123"}},
    ),
    Example("empty", "The server makes the key", {}),
)
SESSION_CHANGE = (
    Example("rename", "Another name", {"name": "About order A-1042"}),
    Example("metadata", "Other metadata, replaced whole", {"metadata": {"end_user_id": "user_456"}}),
)
INPUT = (
    Example("text", "A text, answered with the whole turn", {"content": "Hello!"}),
    Example("streamed", "A text, answered as it happens", {"content": "Hello!", "stream_response": True}),
    Example(
        "parts",
        "Several parts",
        {"messages": [{"type": "text", "content": "Hello!"}, {"type": "text", "content": "Is anybody there?"}]},
    ),
    Example("compact", "Summarise what came before the recent inputs", {"type": "compact"}),
    Example("interrupt", "Stop the turn that runs", {"type": "interrupt"}),
)
