"""`sessile chat`: a conversation on a terminal, or one input and its answer."""

import re
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from sessile.cli import documents, faults
from sessile.cli.conversation import Conversation
from sessile.cli.options import AgentKey, ApiKey, Url
from sessile.cli.prompt import Prompt
from sessile.cli.remote import server
from sessile.cli.screen import Screen
from sessile.cli.text import printable
from sessile.cli.transcript import Kind, pending_text
from sessile.client import Client
from sessile.wire.errors import Forbidden, SessileError, SessionRunning
from sessile.wire.events import PendingToolCall

app = typer.Typer(add_completion=False)

PATIENCE_SECONDS = 60.0
"""How long a single input waits for a server that went away; in a conversation, a person decides."""
HELP = """\
/help   this list
/exit   leave (so does Ctrl-D)
Ctrl-C  stops an answer, or empties the line; twice at an empty prompt, it leaves
A text that begins with a slash is sent as it is when a space stands before it.
When the agent waits for a tool that runs here, give its output: JSON or text, or `error: WHY`."""
_FAILED = "error:"
_WAITS = "requires_action"
_COMMAND = re.compile(r"/\w+\s*")


@app.command()
def chat(
    agent: AgentKey,
    session: Annotated[
        str | None,
        typer.Option("--session", "-s", metavar="SESSION", help="The session to go on with; a new one by default."),
    ] = None,
    message: Annotated[
        str | None, typer.Option("--message", "-m", metavar="TEXT", help="Send this one input and print the answer.")
    ] = None,
    thinking: Annotated[bool, typer.Option(help="Whether to show what the model thinks.")] = True,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Talk with an agent.

    Without a terminal, all of standard input is one input; stdout gets the answer only.

    Example: sessile chat agt_customer_support

    Example: sessile chat agt_customer_support --session welcome

    Example: sessile chat agt_customer_support -m "Where is my order A-1042?"

    Example: sessile chat agt_customer_support < question.txt > answer.txt
    """
    hidden = set() if thinking else {Kind.THINKING}
    if message is None and sys.stdin.isatty():
        with server(url, api_key) as client:
            asides = sys.stdout if sys.stdout.isatty() else sys.stderr
            _converse(client, agent, session, Screen(sys.stdout, asides, hidden))
        return
    text = documents.read_text(message)
    if not sys.stderr.isatty():
        hidden |= {Kind.THINKING, Kind.TOOL, Kind.FAILURE}
    with server(url, api_key) as client:
        _ask_once(client, agent, session, text, Screen(sys.stdout, sys.stderr, hidden))


def _ask_once(client: Client, agent: str, session: str | None, text: str, screen: Screen) -> None:
    """One input; the exit code tells how its turn ended. Raises typer.Exit."""
    if session is None:
        session = _new_session(client, agent, screen)
    conversation = Conversation(client, agent, session, screen, patience=PATIENCE_SECONDS)
    try:
        stop_reason = conversation.say(text)
    except KeyboardInterrupt:
        _stop(conversation, screen)
        if conversation.unfinished:
            screen.note(f"Wait for its end: sessile turns wait {conversation.names} {conversation.unfinished}")
        raise typer.Exit(faults.INTERRUPTED) from None
    finally:
        screen.finish()
    if stop_reason == _WAITS:
        screen.note(f"Answer: sessile sessions pending {conversation.names}; sessile events tool-output …")
    if stop_reason != "end_turn":
        raise typer.Exit(faults.TURN_FAILED)


def _converse(client: Client, agent: str, session: str | None, screen: Screen) -> None:
    """Line by line until the person leaves."""
    said: list[str] = []
    known = session is not None
    session = session or _new_session(client, agent, screen)
    conversation = Conversation(client, agent, session, screen)
    waits = False
    if known:
        waits = client.sessions.get(agent, session).stop_reason == _WAITS
        try:
            said = conversation.show_history()
        except Forbidden:
            screen.note("(This key may not read the log, so the history is not shown.)")
        screen.gap()
    screen.note("/help tells what you can do here, /exit leaves.")
    try:
        Dialogue(conversation, screen, Prompt(said)).run(waits=waits)
    finally:
        if conversation.unfinished:
            screen.note("The turn goes on on the server.")
        screen.note(f"Come back with: sessile chat {agent} --session {session}")


def _stop(conversation: Conversation, screen: Screen) -> bool:
    """After a Ctrl-C: stop the answer that was coming in. Whether that is done; if not, people are told why."""
    try:
        return conversation.interrupt()
    except KeyboardInterrupt:
        pass
    except SessileError as error:
        for line in faults.lines(error):
            screen.problem(line)
    screen.finish()
    return False


def _new_session(client: Client, agent: str, screen: Screen) -> str:
    session = client.sessions.create(agent)
    screen.note(f"New session {session.key} with {agent}.")
    return session.key


class Dialogue:
    """The loop of prompt and answer. Whatever goes wrong with one input is told, and the next one is asked for."""

    def __init__(self, conversation: Conversation, screen: Screen, prompt: Prompt) -> None:
        self._conversation = conversation
        self._screen = screen
        self._prompt = prompt
        self._draft = ""
        """What the next line begins with: an input that was not sent."""
        self._warned = False
        """Whether the last thing that happened was a Ctrl-C at the prompt."""

    def run(self, *, waits: bool = False) -> None:
        """Until the person leaves; `waits`: a turn waits for client tools. Raises typer.Exit after a second Ctrl-C."""
        if waits:
            self._guarded(self._answer_calls)
        while (line := self._ask()) is not None:
            command = line.strip()
            if command == "/exit":
                return
            if command == "/help":
                self._screen.note(HELP)
            elif _COMMAND.fullmatch(line):
                self._screen.problem(f"There is no {command}; /help tells what there is.")
            elif command:
                self._answer(line.removeprefix(" ") if line.startswith(" /") else line)

    def _ask(self) -> str | None:
        """The next line; None when the person leaves."""
        while True:
            draft, self._draft = self._draft, ""
            try:
                line = self._prompt.read(draft)
            except EOFError:
                return None
            except KeyboardInterrupt:
                if self._warned:
                    raise typer.Exit(faults.INTERRUPTED) from None
                self._warned = True
                self._screen.note("(Ctrl-C once more leaves.)")
                continue
            self._warned = False
            return line

    def _answer(self, text: str) -> None:
        self._draft = text

        def answer() -> None:
            if self._conversation.catch_up() == _WAITS and not self._answer_calls():
                return
            if self._send(text) == _WAITS:
                self._answer_calls()

        self._guarded(answer)
        self._screen.gap()

    def _guarded(self, act: Callable[[], object]) -> None:
        try:
            act()
        except KeyboardInterrupt:
            self._interrupted()
        except SessileError as error:
            for line in faults.lines(error):
                self._screen.problem(line)

    def _answer_calls(self) -> bool:
        """Ask for the output of each client tool call that waits, and show how the turn goes on. False: one is left."""
        while calls := self._conversation.pending_calls():
            outputs, errors = {}, {}
            self._screen.finish()
            for call in calls:
                given = self._output_of(call)
                if given is None:
                    self._conversation.watching = False
                    return False
                if given.startswith(_FAILED):
                    errors[call.event_id] = given.removeprefix(_FAILED).strip()
                else:
                    outputs[call.event_id] = documents.tool_output(given)
            self._conversation.answer_calls(outputs, errors)
        return True

    def _output_of(self, call: PendingToolCall) -> str | None:
        """What the person gives; None after Ctrl-D, which leaves the call waiting. Raises KeyboardInterrupt."""
        given = ""
        while not given.strip():
            try:
                given = self._prompt.ask(f"{printable(pending_text(call))} ->")
            except EOFError:
                self._screen.note("(The turn waits. Your next input asks for this again.)")
                return None
        return given.strip()

    def _send(self, text: str) -> str | None:
        """Send an input, after another turn if need be. Once it may be on the server it is no draft any more.

        Returns how its turn stopped.
        """
        while True:
            self._draft = ""
            try:
                return self._conversation.say(text)
            except SessionRunning as error:
                self._draft = text
                if self._conversation.pending_calls():
                    if not self._answer_calls():
                        return None
                    continue
                if error.id is None or not self._may_wait():
                    return None
                self._conversation.wait(error.id)
            except SessileError:
                if self._conversation.unfinished is None:
                    self._draft = text
                raise

    def _may_wait(self) -> bool:
        self._screen.problem("Another client is talking: a turn of this session is still running.")
        return self._prompt.agree("Wait for its end, and send your input then?")

    def _interrupted(self) -> None:
        if _stop(self._conversation, self._screen):
            return
        self._screen.finish()
        if self._draft:
            self._screen.note("(Your input was not sent; it stands at the prompt again.)")
        elif self._conversation.unfinished:
            self._screen.note("(The answer is no longer shown. The turn goes on on the server; your next input waits.)")
        else:
            self._screen.note("(Interrupted; the server may have taken the input.)")
