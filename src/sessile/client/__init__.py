"""The Python client of a Sessile server. It knows the protocol (`sessile.wire`) and nothing else of Sessile."""

from sessile.client.agents import Agent, AsyncAgents
from sessile.client.artifacts import Artifact, AsyncArtifacts
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
from sessile.client.inputs import AsyncInputs
from sessile.client.pages import AsyncPages, Page
from sessile.client.sessions import AsyncSessions, Session
from sessile.client.sync import (
    Agents,
    Artifacts,
    Client,
    Events,
    Follower,
    Inputs,
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
from sessile.client.uploads import File
from sessile.wire.events import Turn, TurnError
from sessile.wire.inputs import WaitingInput

__all__ = [
    "Agent",
    "Agents",
    "Answer",
    "Artifact",
    "Artifacts",
    "AsyncAgents",
    "AsyncArtifacts",
    "AsyncClient",
    "AsyncEvents",
    "AsyncFollower",
    "AsyncInputs",
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
    "File",
    "Followed",
    "Follower",
    "Frame",
    "Inputs",
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
    "WaitingInput",
    "event_type",
]
