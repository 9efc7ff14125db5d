"""The synchronous client has what the asynchronous one has: the same names, arguments and explanations."""

import inspect
from typing import Any

import pytest

from sessile.client import client, follower, pages, sync, turn_stream

PAIRS = [
    (client.AsyncClient, sync.Client),
    (client.AsyncAgents, sync.Agents),
    (client.AsyncSessions, sync.Sessions),
    (client.AsyncEvents, sync.Events),
    (client.AsyncInputs, sync.Inputs),
    (client.AsyncTurns, sync.Turns),
    (client.AsyncArtifacts, sync.Artifacts),
    (client.AsyncToolServers, sync.ToolServers),
    (client.AsyncTools, sync.Tools),
    (pages.AsyncPages, sync.Pages),
    (turn_stream.AsyncTurnStream, sync.TurnStream),
    (follower.AsyncFollower, sync.Follower),
]
TWINS = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__iter__",
}
ONLY_SYNC = {sync.Client: {"over"}}


def public(kind: type) -> dict[str, Any]:
    return {name: value for name, value in inspect.getmembers(kind) if not name.startswith("_")}


def result(annotation: Any) -> str:
    """A return annotation as text, without what tells the two sides apart."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    for module in ("pages", "turn_stream", "follower", "sync"):
        text = text.replace(f"sessile.client.{module}.", "")
    return text.replace("collections.abc.", "").replace("Async", "")


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_same_names(ours: type, theirs: type) -> None:
    assert public(ours).keys() == public(theirs).keys() - ONLY_SYNC.get(theirs, set())
    for name in vars(ours):
        if name in TWINS:
            assert hasattr(theirs, TWINS[name])


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_same_signatures_and_docstrings(ours: type, theirs: type) -> None:
    assert public(ours)
    for name, method in public(ours).items():
        twin = getattr(theirs, name)
        assert inspect.getdoc(method), name
        assert inspect.getdoc(twin) == inspect.getdoc(method), name
        if callable(method):
            asynchronous, synchronous = inspect.signature(method), inspect.signature(twin)
            assert list(synchronous.parameters.values()) == list(asynchronous.parameters.values()), name
            assert result(synchronous.return_annotation) == result(asynchronous.return_annotation), name
            assert not inspect.iscoroutinefunction(twin), name


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_same_explanation_of_the_class(ours: type, theirs: type) -> None:
    assert inspect.getdoc(ours)
    assert inspect.getdoc(theirs)
    if ours is not client.AsyncClient:
        assert inspect.getdoc(theirs) == inspect.getdoc(ours)


def test_both_clients_are_made_alike() -> None:
    assert inspect.signature(sync.Client) == inspect.signature(client.AsyncClient)
    with sync.Client("http://127.0.0.1:1") as synchronous:
        asynchronous = client.AsyncClient("http://127.0.0.1:1")
        names = {name for name in vars(asynchronous) if not name.startswith("_")}
        assert {name for name in vars(synchronous) if not name.startswith("_")} == names
        assert names == {"agents", "sessions", "events", "inputs", "turns", "artifacts", "tool_servers", "tools"}


def test_lists_and_streams_tell_what_they_give() -> None:
    assert result(inspect.signature(sync.Agents.list).return_annotation) == "Pages[sessile.client.agents.Agent]"
    assert inspect.signature(sync.Events.stream).return_annotation is sync.TurnStream
