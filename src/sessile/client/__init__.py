"""The Python client of a Sessile server. It knows the protocol (`sessile.wire`) and nothing else of Sessile."""

from sessile.client.agents import Agent, AsyncAgents
from sessile.client.client import AsyncClient
from sessile.client.errors import (
    ConnectionLost,
    RequestTimedOut,
    ServerUnreachable,
    StreamBroken,
    UnexpectedAnswer,
    UnknownFault,
)
from sessile.client.events import Answer, AsyncEvents, Event, event_type
from sessile.client.follower import AsyncFollower, Followed
from sessile.client.pages import AsyncPages, Page
from sessile.client.sessions import AsyncSessions, Session
from sessile.client.sync import (
    Agents,
    Client,
    Events,
    Follower,
    Pages,
    Sessions,
    Tools,
    ToolServers,
    Turns,
    TurnStream,
)
from sessile.client.tool_servers import AsyncTools, AsyncToolServers, Tool, ToolServer
from sessile.client.transport import Request, Response, Transport
from sessile.client.turn_stream import AsyncTurnStream, Frame
from sessile.client.turns import AsyncTurns
from sessile.client.unknown import UnknownEvent
from sessile.wire.events import Turn, TurnError

__all__ = [
    "Agent",
    "Agents",
    "Answer",
    "AsyncAgents",
    "AsyncClient",
    "AsyncEvents",
    "AsyncFollower",
    "AsyncPages",
    "AsyncSessions",
    "AsyncToolServers",
    "AsyncTools",
    "AsyncTurnStream",
    "AsyncTurns",
    "Client",
    "ConnectionLost",
    "Event",
    "Events",
    "Followed",
    "Follower",
    "Frame",
    "Page",
    "Pages",
    "Request",
    "RequestTimedOut",
    "Response",
    "ServerUnreachable",
    "Session",
    "Sessions",
    "StreamBroken",
    "Tool",
    "ToolServer",
    "ToolServers",
    "Tools",
    "Transport",
    "Turn",
    "TurnError",
    "TurnStream",
    "Turns",
    "UnexpectedAnswer",
    "UnknownEvent",
    "UnknownFault",
    "event_type",
]
