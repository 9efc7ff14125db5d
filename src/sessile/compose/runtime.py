"""A running Sessile without its HTTP server: the store, models and tools, the worker, and the services over them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from msgspec import Struct

from sessile.api.call import Services
from sessile.api.limits import Limits, RequestLimits
from sessile.auth.vault import Vault
from sessile.clock import SystemClock
from sessile.compose import observing, storage
from sessile.compose.access import default_tenant
from sessile.compose.background import sweep_for_ever, tidy_for_ever
from sessile.config import Config, ConfigError, LimitsConfig
from sessile.live.hub import Hub
from sessile.models.default import choose
from sessile.models.providers import default_providers
from sessile.models.registry import Provider, Registry
from sessile.observation import UNOBSERVED, TurnObserver
from sessile.ports import Clock, Files, Store
from sessile.rows import TenantRow
from sessile.runner.elsewhere import Elsewhere
from sessile.runner.history import Histories
from sessile.runner.plan import Planner
from sessile.runner.remote import RemoteOffers
from sessile.runner.slots import TurnLimits
from sessile.runner.turn import TurnEnvironment
from sessile.runner.worker import Worker
from sessile.service.agents import Agents
from sessile.service.artifacts import Artifacts
from sessile.service.events import Events
from sessile.service.inputs import Inputs
from sessile.service.portable import Portable
from sessile.service.secrets import Secrets
from sessile.service.sessions import Sessions
from sessile.service.sub_agents import SubAgentSessions
from sessile.service.tool_servers import ToolList, ToolServers
from sessile.service.visibility import Visibility
from sessile.telemetry.metrics import Metrics
from sessile.tools.artifacts import factories as artifact_tools
from sessile.tools.guard import Guard
from sessile.tools.mcp import McpServers
from sessile.tools.registry import Factory, ToolRegistry
from sessile.tools.sub_agent import SubAgentTool
from sessile.tools.web_get import WebGetTool


class Runtime(Struct, frozen=True):
    """A running Sessile without its HTTP server."""

    services: Services
    worker: Worker
    store: Store
    models: Registry
    tenant: TenantRow
    clock: Clock

    async def drain(self, config: Config) -> None:
        """Take no more input, let turns end or leave them to the next start, then end the streams that are open."""
        self.services.inputs.drain()
        await self.worker.drain(config.drain_seconds, config.shutdown_seconds)
        self.services.hub.drain()


@contextlib.asynccontextmanager
async def running(
    config: Config,
    providers: Mapping[str, Provider] | None = None,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    metrics: Metrics | None = None,
) -> AsyncIterator[Runtime]:
    """Everything but HTTP: the store, the models and tools, and a worker that has closed what was left unfinished.

    `providers` and `functions` (tools by name) come on top of what the configuration names. `metrics` counts what
    happens.

    Raises ConfigError, StorageUnavailable.
    """
    with storage.ownership(config):
        models = model_registry(config, providers)
        tools = ToolRegistry(config.tools, functions, tool_factories(config))
        guard = _guard("mcp", config.mcp.allow)
        traces = observing.open_traces(config, models)
        async with storage.open_store(config) as store, contextlib.AsyncExitStack() as closing:
            closing.push_async_callback(models.close)
            if traces is not None:
                closing.push_async_callback(traces.close)
            clock = SystemClock()
            ground = _Ground(
                config=config,
                clock=clock,
                store=store,
                files=storage.files(config, clock),
                vault=Vault(store, storage.keyring(config)),
                hub=Hub(store, config.heartbeat_seconds, metrics or UNOBSERVED),
                models=models,
                tools=tools,
                guard=guard,
                servers=McpServers(guard, config.mcp.timeout_seconds),
                observer=observing.turn_observer(metrics, traces),
            )
            worker = _worker(ground)
            if metrics is not None:
                store.watch_commits(metrics)
                metrics.watch(lambda: worker.count, lambda: worker.waiting, lambda: ground.hub.followers)
            runtime = Runtime(_services(ground, worker), worker, store, models, await default_tenant(store), clock)
            keepers = await _take_up(ground, runtime)
            closing.push_async_callback(runtime.drain, config)
            for keeper in keepers:
                closing.callback(keeper.cancel)
            yield runtime


class _Ground(Struct, frozen=True):
    """What the worker and the services of one process stand on."""

    config: Config
    clock: Clock
    store: Store
    files: Files
    vault: Vault
    hub: Hub
    models: Registry
    tools: ToolRegistry
    guard: Guard
    servers: McpServers
    observer: TurnObserver


def _worker(ground: _Ground) -> Worker:
    store = ground.store
    return Worker(
        TurnEnvironment(
            store=store,
            planner=Planner(ground.models, ground.tools, RemoteOffers(store, ground.servers, ground.vault)),
            histories=Histories(store),
            sink=ground.hub,
            clock=ground.clock,
            max_model_calls=ground.config.max_model_calls,
            vault=ground.vault,
            files=ground.files,
            observer=ground.observer,
            limits=_turn_limits(ground.config.limits),
        )
    )


def _services(ground: _Ground, worker: Worker) -> Services:
    """The services, and the tools that are made of them."""
    store, files, vault, hub, clock = ground.store, ground.files, ground.vault, ground.hub, ground.clock
    models, tools = ground.models, ground.tools
    artifacts = Artifacts(store, files)
    inputs = Inputs(store, worker, hub, clock, ground.observer)
    sub_agents = SubAgentSessions(store, worker, hub, hub.entries, inputs, clock)
    tools.add(artifact_tools(store, files))
    tools.add({"sub_agent": lambda configuration: SubAgentTool(sub_agents, configuration)})
    return Services(
        agents=Agents(store, models, tools, worker, hub),
        sessions=Sessions(store, worker, hub, vault, inputs.admit_new),
        secrets=Secrets(store, vault),
        inputs=inputs,
        events=Events(store),
        portable=Portable(store, files, artifacts, clock),
        visibility=Visibility(store, worker, hub),
        artifacts=artifacts,
        tool_servers=ToolServers(store, ground.servers, vault, ground.guard.url),
        tools=ToolList(store, tools),
        hub=hub,
        store=store,
        limits=_request_limits(ground.config.limits),
    )


async def _take_up(ground: _Ground, runtime: Runtime) -> list[asyncio.Task[None]]:
    """Go on with what was left unfinished; returns what keeps the server up from now on."""
    config, worker, services = ground.config, runtime.worker, runtime.services
    shared = storage.shared(config)
    elsewhere = Elsewhere((worker, ground.hub), ground.clock, config.heartbeat_seconds)
    if (relay := await ground.store.listen(elsewhere.heard)) is not None:
        ground.hub.connect(relay)
    await worker.recover(alone=not shared)
    keepers = [
        sweep_for_ever(services.sessions),
        tidy_for_ever(services.artifacts),
        worker.keep_leases(config.lease_seconds),
    ]
    if shared:
        keepers.append(elsewhere.look_for_ever())
    return [asyncio.create_task(keeper) for keeper in keepers]


def model_registry(config: Config, providers: Mapping[str, Provider] | None = None) -> Registry:
    """The models of a configuration; its caller closes it. Raises ConfigError."""
    known = {**default_providers(), **(providers or {})}
    return Registry(config.models, known, config.provider_models, choose(config.default_model))


def tool_factories(config: Config) -> dict[str, Factory]:
    """The tools that a server has by itself, by the type of the configurations that stand for them."""
    factories: dict[str, Factory] = {}
    if config.web_get.enabled:
        web_get = WebGetTool(_guard("web_get", config.web_get.allow))
        factories["web_get"] = lambda configuration: web_get
    return factories


def _turn_limits(limits: LimitsConfig) -> TurnLimits:
    return TurnLimits(
        running=limits.running_turns,
        running_per_tenant=limits.running_turns_per_tenant,
        waiting=limits.waiting_turns,
        waiting_per_tenant=limits.waiting_turns_per_tenant,
        waiting_bytes=limits.waiting_bytes,
    )


def _request_limits(limits: LimitsConfig) -> Limits:
    return Limits(
        RequestLimits(
            in_flight=limits.requests_in_flight,
            body_bytes=limits.request_bytes,
            per_second=limits.requests_per_second,
            burst=limits.requests_burst,
            followers=limits.followers,
            followers_per_key=limits.followers_per_key,
        )
    )


def _guard(table: str, allow: list[str]) -> Guard:
    """What the tools of one table may reach. Raises ConfigError."""
    try:
        return Guard(allow)
    except ValueError as error:
        raise ConfigError(f"{table}.allow: {error}") from None
