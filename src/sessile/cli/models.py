"""`sessile models`: list, check. They read the configuration, as a server started here would, and need no server."""

import asyncio
import time
from contextlib import aclosing
from typing import Annotated

import typer
from msgspec import Struct

from sessile import logs
from sessile.cli import faults, output
from sessile.cli.options import ConfigFile, Json
from sessile.compose.runtime import model_registry
from sessile.config import load
from sessile.domain.messages import UserMessage
from sessile.models.registry import DEFAULT, WILDCARD, Described, Registry, WarmUp
from sessile.ports import ModelFault, ModelRequest, ModelUsage
from sessile.wire.errors import UnknownModel

app = typer.Typer(
    help="What models are configured, and whether they answer.", no_args_is_help=True, add_completion=False
)

_REQUEST = ModelRequest(messages=[UserMessage("Say hello in one short sentence.")], tools=[], parameters={})


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model in a list. `stands_for` and `reason` are there for `default`, unless it has a table."""

    name: str
    provider: str
    model: str
    where: str
    key_variable: str | None = None
    key_is_set: bool | None = None
    stands_for: str | None = None
    reason: str | None = None


class Checked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one call came to. `code` and `message` say why it was not `ok`; tokens are there when the model counts."""

    name: str
    ok: bool
    first_token_ms: int | None = None
    total_ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    code: str | None = None
    message: str | None = None


_COLUMNS = [
    output.Column("NAME", lambda model: model.name),
    output.Column("PROVIDER", lambda model: model.provider),
    output.Column("MODEL", lambda model: model.model),
    output.Column("WHERE", lambda model: model.where),
    output.Column("KEY", lambda model: model.key_variable or ""),
    output.Column("KEY IS SET", lambda model: {None: "", True: "yes", False: "no"}[model.key_is_set]),
    output.Column("STANDS FOR", lambda model: model.stands_for or ""),
]


@app.command("list")
def list_(config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the models that agents can name, where each is, and whether its key is set; never a key.

    Example: sessile models list
    """
    registry = model_registry(load(config))
    models = [_shown(registry.describe(name)) for name in registry.names()]
    if output.on_terminal() and not as_json:
        output.details([(model.name, _means(model)) for model in models])
    else:
        output.listing(models, _COLUMNS, output.Cut(None), as_json=as_json)


@app.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="As agents name them; all that are configured, and `default`, if none."
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Make one small real call to each model, and tell how long it took, or why it failed.

    Exits with 1 when any fails. Calls to cloud providers cost what such a call costs.

    Example: sessile models check

    Example: sessile models check default openai:gpt-6-luna --json
    """
    settings = load(config)
    logs.configure("warning")
    if not asyncio.run(_check_all(model_registry(settings), names, as_json=as_json)):
        raise typer.Exit(faults.FAILED)


async def _check_all(registry: Registry, names: list[str] | None, *, as_json: bool) -> bool:
    """Check one after the other, telling each result as it comes; whether all are well."""
    well = True
    try:
        for name in names or sorted({*registry.tables(), DEFAULT} - {WILDCARD}):
            checked = await _check(registry, name)
            well = well and checked.ok
            if as_json:
                output.json_line(checked)
            else:
                output.line(_told(checked))
    finally:
        await registry.close()
    return well


async def _check(registry: Registry, name: str) -> Checked:
    began = time.monotonic()
    first: float | None = None
    usage: ModelUsage | None = None
    try:
        model = registry.get(name)
        if isinstance(model, WarmUp):
            await model.warm_up()
            began = time.monotonic()
        async with aclosing(model.stream(_REQUEST)) as chunks:
            async for chunk in chunks:
                first = first or time.monotonic()
                usage = chunk if isinstance(chunk, ModelUsage) else usage
    except UnknownModel as error:
        return Checked(name=name, ok=False, code=error.code, message=error.message)
    except ModelFault as fault:
        return Checked(name=name, ok=False, code=fault.code, message=fault.message)
    return Checked(
        name=name,
        ok=True,
        first_token_ms=round(1000 * ((first or time.monotonic()) - began)),
        total_ms=round(1000 * (time.monotonic() - began)),
        input_tokens=usage.input_tokens if usage else None,
        output_tokens=usage.output_tokens if usage else None,
    )


def _told(checked: Checked) -> str:
    if not checked.ok:
        return f"{checked.name}: FAILED ({checked.code}): {checked.message}"
    tokens = "" if checked.output_tokens is None else f", {checked.output_tokens} tokens"
    return f"{checked.name}: ok, first token after {checked.first_token_ms} ms{tokens} in {checked.total_ms} ms"


def _shown(described: Described) -> Shown:
    place, choice = described.place, described.choice
    return Shown(
        name=described.name,
        provider=described.provider,
        model=place.model,
        where=place.where,
        key_variable=place.key_variable,
        key_is_set=place.key_is_set if place.key_variable else None,
        stands_for=choice.name if choice else None,
        reason=choice.reason if choice else None,
    )


def _means(model: Shown) -> str:
    """The model in words, with the reason for it on a line of its own."""
    words = f"{model.provider}: {model.model}, {model.where}"
    if model.key_variable:
        words += f", {model.key_variable} is {'set' if model.key_is_set else 'NOT SET'}"
    return words if model.reason is None else f"{words}\n(because {model.reason})"
