"""The words that `sessile serve` starts with: where the server is, which model answers, and what to paste next."""

import shlex
import textwrap

from msgspec import Struct

from sessile.cli.options import DEFAULT_URL
from sessile.models.default import PREFERRED
from sessile.models.local import INSTALL
from sessile.models.providers import ENDPOINTS
from sessile.models.registry import DEMO, LOCAL, UNCHOSEN, Described

WIDTH = 100
_QUESTION = '{"content": "Where is my order A-1042?", "stream_response": true}'
_BETTER = (
    f"set {ENDPOINTS[PREFERRED[0]].key_variable} (or the key of {', '.join(PREFERRED[1:4])} …), "
    "or SESSILE_DEFAULT_MODEL=PROVIDER:MODEL, and start again."
)


class Facts(Struct, frozen=True, kw_only=True):
    """What the greeting tells.

    `command` and `options` are how the reader's shell calls `sessile`, and what makes it find this server's data.
    `database`: the PostgreSQL server in place of the data folder.
    `secret`: the owner key, if this start made it. `sample`: the keys of an agent and a session to talk to.
    """

    url: str
    data: str
    command: str
    options: str
    model: Described
    database: str | None = None
    no_auth: bool = False
    secret: str | None = None
    key_in_environment: bool = False
    sample: tuple[str, str] | None = None


def greeting(facts: Facts) -> str:
    """The whole text."""
    place = f"Database: {facts.database}" if facts.database else f"Data folder: {facts.data}"
    parts = [
        f"Sessile is ready at {facts.url}\nAPI reference, to try out: {facts.url}/docs\n{place}",
        _model(facts.model),
        _key(facts),
    ]
    if facts.sample:
        parts += [f"Talk to the sample agent, in another terminal:\n\n  {_chat(facts)}"]
        parts += [f"The same over HTTP:\n\n  {_curl(facts)}"]
    return "\n".join(["", "\n\n".join([*parts, "Ctrl-C stops the server."]), ""])


def warns(described: Described) -> bool:
    """Whether the model is one that nobody has asked for: the demo, because nothing better is there."""
    return described.choice is UNCHOSEN


def _model(described: Described) -> str:
    choice, place = described.choice, described.place
    if warns(described):
        text = (
            "Model: NONE THAT UNDERSTANDS ANYTHING. There is only the built-in demo, which follows simple rules. "
            f"For a small real model on this machine: {INSTALL}. For a good one, {_BETTER}"
        )
    elif described.provider == DEMO:
        text = "Model: the built-in demo. It follows simple rules and understands nothing."
    elif described.provider == LOCAL:
        text = (
            f"Model: {place.model}, on this machine, without a key. It is a real language model, but a tiny one: "
            f"it makes things up, and it does not use tools. For a better one, {_BETTER}"
        )
    else:
        text = f"Model: {place.model} at {place.where}" + (f", because {choice.reason}." if choice else ".")
        if place.key_variable and not place.key_is_set:
            text += f" Its key is missing: {place.key_variable} is not set."
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _key(facts: Facts) -> str:
    if facts.no_auth:
        return "Anybody on this machine is the owner (--no-auth)."
    if facts.secret:
        return f"Owner key, shown this once: {facts.secret}"
    if facts.key_in_environment:
        return "The owner key is the one in SESSILE_OWNER_KEY. The commands below take theirs from SESSILE_API_KEY."
    return (
        "Keys are as before. This makes another one, for the commands below:\n\n"
        f"  export SESSILE_API_KEY=$({facts.command} keys create me --role owner{facts.options})"
    )


def _chat(facts: Facts) -> str:
    assert facts.sample is not None
    variables = [f"SESSILE_API_KEY={facts.secret}"] if facts.secret else []
    if facts.url != DEFAULT_URL:
        variables.append(f"SESSILE_URL={facts.url}")
    return " ".join([*variables, facts.command, "chat", shlex.quote(facts.sample[0])])


def _curl(facts: Facts) -> str:
    assert facts.sample is not None
    agent, session = facts.sample
    words = ["curl -N"]
    if not facts.no_auth:
        words.append(f'-H "x-api-key: {facts.secret or "$SESSILE_API_KEY"}"')
    words += ["-H 'content-type: application/json'", f"-d '{_QUESTION}'"]
    return " ".join([*words, f"{facts.url}/v2/agents/{agent}/sessions/{session}/events"])
