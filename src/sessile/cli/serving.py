"""What `sessile serve` does around the server: the sample agent, and the words a newcomer reads first."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.text import Text

from sessile.cli import shell
from sessile.cli.greeting import Facts, greeting, warns
from sessile.compose.runtime import Runtime
from sessile.compose.serving import Share
from sessile.compose.serving import serve as run_server
from sessile.config import Config, ConfigError, is_url, without_secrets
from sessile.models.registry import DEFAULT, Described
from sessile.ports import Principal
from sessile.wire import codec
from sessile.wire.errors import KeyTaken, UnknownModel
from sessile.wire.sessions import CreateSessionRequest

_SAMPLE_SESSION = "welcome"


class Told(Struct, frozen=True):
    """The greeting, and whether what it says of the model is a warning."""

    text: str
    warns: bool


def serve(
    config: Config,
    config_file: str | None,
    sample: str | None,
    tell: Callable[[Told], None],
    share: Share | None = None,
) -> None:
    """Run the server; tools are looked for beside the configuration file. Raises ConfigError."""
    sys.path.insert(0, str(Path(config_file).resolve().parent if config_file else Path.cwd()))
    document = _read_sample(sample) if sample else None
    found: list[Described] = []

    async def prepare(runtime: Runtime) -> None:
        name = DEFAULT if document is None else await _create_sample(runtime, document)
        try:
            found.append(runtime.models.describe(name))
        except UnknownModel:
            found.append(runtime.models.describe(DEFAULT))

    def announce(url: str, secret: str | None) -> None:
        facts = Facts(
            url=url,
            data=shell.path(config.data),
            database=without_secrets(config.database) if config.database and is_url(config.database) else None,
            command=shell.command(),
            options=_options(config, config_file),
            model=found[0],
            no_auth=config.no_auth,
            secret=secret,
            key_in_environment="SESSILE_OWNER_KEY" in os.environ,
            sample=(document["key"], _SAMPLE_SESSION) if document else None,
        )
        tell(Told(greeting(facts), warns(facts.model)))

    run_server(config, prepare=prepare, on_ready=announce, share=share)


async def _create_sample(runtime: Runtime, document: dict[str, Any]) -> str:
    """Make the sample agent and a session of it, if they are not there; returns the name of the agent's model."""
    owner = Principal(tenant_id=runtime.tenant.id, key_id=None, roles=frozenset({"owner"}), agent_roles={})
    agents, key = runtime.services.agents, document["key"]
    with contextlib.suppress(KeyTaken):
        await agents.create(owner, document)
    with contextlib.suppress(KeyTaken):
        await runtime.services.sessions.create(owner, key, CreateSessionRequest(key=_SAMPLE_SESSION, name="Welcome"))
    model: str = msgspec.json.decode((await agents.get(owner, key)).json)["model"]["name"]
    return model


def _read_sample(path: str) -> dict[str, Any]:
    try:
        document = codec.decode(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(document, dict) or "key" not in document:
        raise ConfigError(f"{path} is not an agent document with a key")
    return document


def _options(config: Config, config_file: str | None) -> str:
    """What makes `sessile keys` find this server's data from the folder of the reader's shell."""
    if config.database is not None and is_url(config.database):
        return f" --database {shlex.quote(without_secrets(config.database))}"
    if config.database is not None and config_file:
        return f" --config {shell.path(config_file)}"
    return f" --data {shell.path(config.data)}"


def show(console: Console, told: Told) -> None:
    """Print the greeting."""
    text = Text(told.text)
    text.highlight_regex(r"Sessile is ready at \S+", "bold")
    text.highlight_regex(r"Owner key, shown .+", "bold")
    if told.warns:
        text.highlight_regex(r"Model: .+(\n.+)*", "bold yellow")
    console.print(text, soft_wrap=True)
