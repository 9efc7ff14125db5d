"""What `sessile serve` does around the server: the sample agent, and the words a newcomer reads first."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from sessile.compose import Runtime
from sessile.compose import serve as run_server
from sessile.config import Config, ConfigError
from sessile.ports import Principal
from sessile.wire import codec
from sessile.wire.errors import KeyTaken
from sessile.wire.sessions import CreateSessionRequest

_SAMPLE_SESSION = "welcome"
_SAMPLE_INPUT = '{"content": "Where is my order A-1042?", "stream_response": true}'


def serve(config: Config, config_file: str | None, sample: str | None, console: Console) -> None:
    """Run the server; tools are looked for beside the configuration file. Raises ConfigError."""
    sys.path.insert(0, str(Path(config_file).resolve().parent if config_file else Path.cwd()))
    document = _read_sample(sample) if sample else None

    async def prepare(runtime: Runtime) -> None:
        if document is not None:
            await _create_sample(runtime, document)

    def announce(url: str, secret: str | None) -> None:
        _greet(console, config, url, secret, document["key"] if document else None)

    run_server(config, prepare=prepare, on_ready=announce)


async def _create_sample(runtime: Runtime, document: dict[str, Any]) -> None:
    owner = Principal(tenant_id=runtime.tenant.id, key_id=None, roles=frozenset({"owner"}), agent_roles={})
    with contextlib.suppress(KeyTaken):
        await runtime.services.agents.create(owner, document)
    with contextlib.suppress(KeyTaken):
        session = CreateSessionRequest(key=_SAMPLE_SESSION, name="Welcome")
        await runtime.services.sessions.create(owner, document["key"], session)


def _read_sample(path: str) -> dict[str, Any]:
    try:
        document = codec.decode(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(document, dict) or "key" not in document:
        raise ConfigError(f"{path} is not an agent document with a key")
    return document


def _greet(console: Console, config: Config, url: str, secret: str | None, agent_key: str | None) -> None:
    lines = [f"\n[bold]Sessile[/bold] is ready at [bold]{url}[/bold]  (data in {escape(config.data)})"]
    if config.no_auth:
        lines.append("Anybody on this machine is the owner (--no-auth).")
    elif secret:
        lines.append(f"Owner key, shown this once: [bold]{secret}[/bold]")
    else:
        lines.append("Keys are as before; `sessile keys create` makes another.")
    if agent_key:
        key = "" if config.no_auth else f' -H "x-api-key: {secret or "$SESSILE_API_KEY"}"'
        path = f"{url}/v2/agents/{agent_key}/sessions/{_SAMPLE_SESSION}/events"
        lines += [
            "\nTalk to the sample agent:\n",
            f"  curl -N{key} -H 'content-type: application/json' \\",
            f"    {escape(path)} \\",
            f"    -d '{_SAMPLE_INPUT}'\n",
        ]
    console.print("\n".join(lines), soft_wrap=True)
