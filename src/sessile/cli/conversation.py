"""One session as a person sees it: what is said and what happens goes to the screen, every event once.

A turn belongs to its session, not to whoever watches it. When watching ends early, the rest is in the log.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from sessile.cli.screen import Screen
from sessile.cli.transcript import Transcript
from sessile.client import Client, ConnectionLost, RequestTimedOut, ServerUnreachable, StreamBroken, TurnStream
from sessile.wire.errors import Forbidden, NotFound, SessileError, Unavailable
from sessile.wire.events import InputMessageEvent, PendingToolCall, Turn

HISTORY = 60
"""The newest events that are shown when somebody comes back to a session."""
_PAGE = 50
_BAD_GATEWAYS = (502, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 5.0


class NotArrived(SessileError):
    """The server never got the message."""

    code = "not_arrived"


class Conversation:
    """Sends inputs to a session and shows what comes of them.

    `patience` is how many seconds to wait for a server that went away; None is for ever.
    """

    def __init__(
        self, client: Client, agent: str, session: str, screen: Screen, *, patience: float | None = None
    ) -> None:
        self.unfinished: str | None = None
        """The turn that was still running when it was last looked at."""
        self.watching = False
        """Whether its answer was coming in when it was last looked at, or a turn was waiting for client tools."""
        self._client, self._agent, self._session = client, agent, session
        self._screen = screen
        self._patience = patience
        self._transcript = Transcript()

    @property
    def names(self) -> str:
        """Agent and session, as commands take them."""
        return f"{self._agent} {self._session}"

    def show_history(self) -> list[str]:
        """Show the newest events, from an input on; returns what people said in them. Raises SessileError."""
        events, more = self._after(self._transcript.last_id, HISTORY)
        if more:
            first = next((place for place, event in enumerate(events) if isinstance(event, InputMessageEvent)), 0)
            events = events[first:]
            self._screen.note(f"(Earlier events: sessile events list {self.names})")
        self._show(events)
        return [event.content for event in events if isinstance(event, InputMessageEvent)]

    def say(self, text: str) -> str | None:
        """Send an input and show its turn to the end; returns the stop reason, None when the session was deleted.

        Raises NotArrived when the server went away before it took the input, SessileError, and KeyboardInterrupt, after
        which `unfinished` is the turn if there is one.
        """
        stream = self._client.events.stream(self._agent, self._session, text)
        return self._show_turn(stream, lambda: self._find_input(text))

    def pending_calls(self) -> list[PendingToolCall]:
        """The client tool calls that the session's turn waits for; `interrupt` stops it. Raises SessileError."""
        calls = self._client.sessions.outstanding_client_tool_calls(self._agent, self._session)
        self.watching = bool(calls)
        return calls

    def answer_calls(self, outputs: Mapping[str, Mapping[str, Any]], errors: Mapping[str, Any]) -> str | None:
        """Answer client tool calls and show the turn as it goes on; returns and raises what `say` does."""
        stream = self._client.events.stream_tool_outputs(self._agent, self._session, outputs, errors=errors)
        return self._show_turn(stream, lambda: self._find_output([*outputs, *errors]))

    def interrupt(self) -> bool:
        """Stop the turn whose answer was coming in, and show what was kept of it; False when none was.

        Raises SessileError, and KeyboardInterrupt from whoever does not want to wait for its end.
        """
        if not self.watching:
            return False
        self.watching = False
        self._screen.finish()
        self._screen.note("(Stopping it. Ctrl-C once more: do not wait for that.)")
        answer = self._client.events.interrupt(self._agent, self._session)
        try:
            kept = self._after(self._transcript.last_id, None)[0]
        except Forbidden:
            kept = answer.events
        self._show(kept)
        self.unfinished = None
        return True

    def catch_up(self) -> str | None:
        """Wait for the unfinished turn, if there is one, and show what happened meanwhile; returns its stop reason."""
        if self.unfinished is None:
            return None
        try:
            stop_reason = self.wait(self.unfinished).stop_reason
        except NotFound:
            stop_reason = None
            self._screen.problem("The session was deleted.")
        self.unfinished = None
        return stop_reason

    def wait(self, turn_id: str) -> Turn:
        """Wait until a turn has ended, even while the server is away, and show what the log has that is new."""
        turns = self._client.turns
        turn: Turn = self._persist(lambda: turns.get(self._agent, self._session, turn_id))
        if turn.status != "stopped":
            self._screen.note("(Waiting for a turn that still runs. Ctrl-C stops waiting.)")
            turn = self._persist(lambda: turns.wait(self._agent, self._session, turn_id))
        self._show(self._persist(self._news))
        return turn

    def _show_turn(self, stream: TurnStream, find: Callable[[], str]) -> str | None:
        """Show a stream to its end. When the connection breaks for good, `find` tells the turn it was about."""
        try:
            with stream as turn:
                self.unfinished = turn.turn_id or None
                self.watching = True
                for frame in turn:
                    self._screen.show(self._transcript.frame(frame))
        except (StreamBroken, ConnectionLost):
            self.watching = False
            self._screen.problem("The connection to the server broke.")
            self.unfinished = self.unfinished or find()
            return self.catch_up()
        self.unfinished, self.watching = None, False
        return stream.stop_reason

    def _find_input(self, text: str) -> str:
        """The turn of an input of which nothing was heard. Raises NotArrived."""
        news = self._persist(self._news)
        ours = [event for event in news if isinstance(event, InputMessageEvent) and event.content == text]
        if not ours:
            raise NotArrived
        turn_id: str = ours[-1].turn_id
        return turn_id

    def _find_output(self, event_ids: list[str]) -> str:
        """The turn of tool outputs of which nothing was heard. Raises NotArrived when their calls still wait."""
        if {call.event_id for call in self._persist(self.pending_calls)} & {*event_ids}:
            raise NotArrived
        turn_id: str = self._persist(lambda: self._client.events.get(self._agent, self._session, event_ids[0])).turn_id
        return turn_id

    def _news(self) -> list[Any]:
        try:
            return self._after(self._transcript.last_id, None)[0]
        except Forbidden:
            self._screen.note("(This key may not read the log: what happened meanwhile cannot be shown.)")
            return []

    def _after(self, last_id: str, limit: int | None) -> tuple[list[Any], bool]:
        """The events after `last_id` in order, the newest `limit` of them, and whether there were more."""
        found: list[Any] = []
        events = self._client.events.list(self._agent, self._session, order="desc", records=True, limit=_PAGE)
        for event in events:
            if event.id <= last_id:
                break
            if len(found) == limit:
                return found[::-1], True
            found.append(event)
        return found[::-1], False

    def _show(self, events: list[Any]) -> None:
        for event in events:
            self._screen.show(self._transcript.event(event))
        self._screen.finish()

    def _persist(self, ask: Callable[[], Any]) -> Any:
        """Ask again and again while the server is away, as long as patience lasts."""
        deadline = None if self._patience is None else time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return ask()
            except SessileError as error:
                if not _away(error) or (deadline is not None and time.monotonic() + pause > deadline):
                    raise
                if pause == _FIRST_PAUSE:
                    self._screen.note("(Waiting for the server. Ctrl-C stops waiting.)")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _away(error: SessileError) -> bool:
    """Whether the server, or what stands before it, may answer later."""
    gone = isinstance(error, ServerUnreachable | ConnectionLost | RequestTimedOut | Unavailable)
    return gone or error.status in _BAD_GATEWAYS
