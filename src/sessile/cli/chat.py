"""`sessile chat`: a conversation on a terminal, or one input and its answer."""

import re
import sys
from typing import Annotated

import typer

from sessile.cli import documents, faults
from sessile.cli.conversation import Conversation
from sessile.cli.options import AgentKey, ApiKey, Url
from sessile.cli.prompt import Prompt
from sessile.cli.remote import server
from sessile.cli.screen import Screen
from sessile.cli.transcript import Kind
from sessile.client import Client
from sessile.wire.errors import Forbidden, SessileError, SessionRunning

app = typer.Typer(add_completion=False)

PATIENCE_SECONDS = 60.0
"""How long a single input waits for a server that went away; in a conversation, a person decides."""
HELP = """\
/help   this list
/exit   leave (so does Ctrl-D)
Ctrl-C  stops an answer, or empties the line; twice at an empty prompt, it leaves
A text that begins with a slash is sent as it is when a space stands before it."""
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
    if stop_reason != "end_turn":
        raise typer.Exit(faults.TURN_FAILED)


def _converse(client: Client, agent: str, session: str | None, screen: Screen) -> None:
    """Line by line until the person leaves."""
    said: list[str] = []
    known = session is not None
    session = session or _new_session(client, agent, screen)
    conversation = Conversation(client, agent, session, screen)
    if known:
        client.sessions.get(agent, session)
        try:
            said = conversation.show_history()
        except Forbidden:
            screen.note("(This key may not read the log, so the history is not shown.)")
        screen.gap()
    screen.note("/help tells what you can do here, /exit leaves.")
    try:
        Dialogue(conversation, screen, Prompt(said)).run()
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

    def run(self) -> None:
        """Until the person leaves. Raises typer.Exit after a second Ctrl-C."""
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
        try:
            self._conversation.catch_up()
            self._send(text)
        except KeyboardInterrupt:
            self._interrupted()
        except SessileError as error:
            for line in faults.lines(error):
                self._screen.problem(line)
        self._screen.gap()

    def _send(self, text: str) -> None:
        """Send an input, after another turn if need be. Once it may be on the server it is no draft any more."""
        while True:
            self._draft = ""
            try:
                self._conversation.say(text)
                return
            except SessionRunning as error:
                self._draft = text
                if error.id is None or not self._may_wait():
                    return
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
