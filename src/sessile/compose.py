"""Puts the adapters behind the ports. The only module that names concrete ones."""

import asyncio
import contextlib
import gc
import importlib
import math
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog
import uvloop
from msgspec import Struct

from sessile import logs
from sessile.api.app import App
from sessile.api.call import Services
from sessile.api.gate import Gate
from sessile.api.limits import Limits, RequestLimits
from sessile.api.metrics import MetricsPage
from sessile.api.server import HttpServer, bounded
from sessile.auth import keys
from sessile.auth.keyring import VARIABLE, Keyring
from sessile.auth.vault import Vault, rotate
from sessile.clock import SystemClock
from sessile.config import Config, ConfigError, LimitsConfig, is_url
from sessile.live.hub import Hub
from sessile.models.default import choose
from sessile.models.providers import default_providers
from sessile.models.registry import Provider, Registry
from sessile.observation import UNOBSERVED, TurnObserver
from sessile.ports import Authenticator, Clock, ModelFault, Store
from sessile.rows import Backlog, TenantRow
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
from sessile.stores.files import LocalFiles
from sessile.stores.sqlite.migrate import pending
from sessile.stores.sqlite.owner import owned
from sessile.stores.sqlite.store import SqliteStore
from sessile.telemetry.both import Both
from sessile.telemetry.metrics import CONTENT_TYPE, Metrics
from sessile.telemetry.workers import MetricsText, meet
from sessile.tools.artifacts import factories as artifact_tools
from sessile.tools.guard import Guard
from sessile.tools.mcp import McpServers
from sessile.tools.registry import Factory, ToolRegistry
from sessile.tools.sub_agent import SubAgentTool
from sessile.tools.web_get import WebGetTool
from sessile.wire.errors import KeyTaken, StorageUnavailable, UnknownModel

DEFAULT_TENANT = "default"
_SWEEP_IDLE_SECONDS = 1.0
_SWEEP_SECONDS = 60 * 60
_STRAY_SECONDS = 0.3
_BACKLOG_SECONDS = 1.0
"""How long `/metrics` waits for the store; less than workers wait for each other's pages."""
_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SWITCH_INTERVAL = 0.0005
"""Seconds a thread keeps the interpreter: short, so that the store's threads are not starved by a busy event loop."""

_GC_THRESHOLDS = (20_000, 20, 50)
"""Collect garbage less often than Python's defaults, which suit short scripts; what was imported is never visited."""

_log = structlog.get_logger("sessile")


class Share(Struct, frozen=True):
    """What one of several workers has from whoever started it: its number, the port, and where workers meet."""

    number: int
    sockets: list[socket.socket]
    meeting: Path


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
async def open_store(config: Config) -> AsyncIterator[Store]:
    """The store of a configuration, for administration beside a running server or without one. Raises ConfigError."""
    if is_url(config.database):
        store = await _postgres().open(config.database, SystemClock(), config.lease_seconds)
    else:
        store = await SqliteStore.open(_database(config), SystemClock(), config.lease_seconds)
    try:
        yield store
    finally:
        await store.close()


async def pending_migrations(config: Config) -> list[str]:
    """What this version would do to the schema of the database first, in order. Raises StorageUnavailable."""
    if is_url(config.database):
        names: list[str] = await _postgres().pending(config.database)
        return names
    return await asyncio.to_thread(pending, _database_file(config))


async def migrate_database(config: Config) -> list[str]:
    """Bring the database to the schema of this version; returns what was done.

    Raises ConfigError, DatabaseInUse when a server runs on a database file, StorageUnavailable.
    """
    names = await pending_migrations(config)
    if names:
        with contextlib.nullcontext() if is_url(config.database) else owned(_database(config)):
            async with open_store(config):
                pass
    return names


@contextlib.asynccontextmanager
async def open_existing(config: Config) -> AsyncIterator[Store]:
    """The store of a database that is there and up to date. Raises ConfigError, StorageUnavailable."""
    file = _database_file(config)
    if not is_url(config.database) and not file.exists():
        raise ConfigError(f"There is no database {str(file)!r}.")
    if names := await pending_migrations(config):
        raise ConfigError(f"The database is older than this version, by {len(names)} steps: sessile db migrate")
    async with open_store(config) as store:
        yield store


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
    shared = is_url(config.database)
    with contextlib.nullcontext() if shared else owned(_database(config)):
        models = model_registry(config, providers)
        tools = ToolRegistry(config.tools, functions, tool_factories(config))
        clock = SystemClock()
        files = LocalFiles(_files(config), clock, shared=shared)
        async with open_store(config) as store:
            vault = Vault(store, keyring(config))
            hub = Hub(store, config.heartbeat_seconds, metrics or UNOBSERVED)
            traces = _traces(config, models)
            observer = _observer(metrics, traces)
            mcp_guard = _guard("mcp", config.mcp.allow)
            remote = McpServers(mcp_guard, config.mcp.timeout_seconds)
            planner = Planner(models, tools, RemoteOffers(store, remote, vault))
            histories = Histories(store)
            calls, limits = config.max_model_calls, _turn_limits(config.limits)
            env = TurnEnvironment(store, planner, histories, hub, clock, calls, vault, files, observer, limits)
            worker = Worker(env)
            if metrics is not None:
                store.watch_commits(metrics)
                metrics.watch(lambda: worker.count, lambda: worker.waiting, lambda: hub.followers)
            artifacts = Artifacts(store, files)
            tools.add(artifact_tools(store, files))
            inputs = Inputs(store, worker, hub, clock, observer)
            sub_agents = SubAgentSessions(store, worker, hub, hub.entries, inputs, clock)
            tools.add({"sub_agent": lambda configuration: SubAgentTool(sub_agents, configuration)})
            services = Services(
                agents=Agents(store, models, tools, worker, hub),
                sessions=Sessions(store, worker, hub, vault, inputs.admit_new),
                secrets=Secrets(store, vault),
                inputs=inputs,
                events=Events(store),
                portable=Portable(store, files, artifacts, clock),
                visibility=Visibility(store, worker, hub),
                artifacts=artifacts,
                tool_servers=ToolServers(store, remote, vault, mcp_guard.url),
                tools=ToolList(store, tools),
                hub=hub,
                store=store,
                limits=_request_limits(config.limits),
            )
            elsewhere = Elsewhere((worker, hub), clock, config.heartbeat_seconds)
            if (relay := await store.listen(elsewhere.heard)) is not None:
                hub.connect(relay)
            await worker.recover(alone=not shared)
            keepers = [
                asyncio.create_task(_sweep_for_ever(services.sessions)),
                asyncio.create_task(_tidy_for_ever(artifacts)),
                asyncio.create_task(worker.keep_leases(config.lease_seconds)),
            ]
            if shared:
                keepers.append(asyncio.create_task(elsewhere.look_for_ever()))
            runtime = Runtime(services, worker, store, models, await default_tenant(store), clock)
            try:
                yield runtime
            finally:
                for keeper in keepers:
                    keeper.cancel()
                await runtime.drain(config)
                if traces is not None:
                    await traces.close()
                await models.close()


def _postgres() -> Any:
    """The store for PostgreSQL, whose driver is an optional extra. Raises ConfigError without it."""
    try:
        return importlib.import_module("sessile.stores.postgres.store").PostgresStore
    except ModuleNotFoundError as missing:
        if missing.name != "asyncpg":
            raise
        raise ConfigError("PostgreSQL needs the extra `postgres`: pip install 'sessile[postgres]'.") from None


def keyring(config: Config) -> Keyring:
    """The keys of the secrets in a database: of the environment, or of a file beside it."""
    database = _database(config)
    return Keyring(database.with_name(f"{database.name}.secrets-key"), os.environ.get(VARIABLE))


async def rotate_secrets_key(config: Config) -> int:
    """Encrypt all secrets with a new key; returns how many. Raises SecretsUnavailable, StorageUnavailable."""
    async with open_store(config) as store:
        return await rotate(store, keyring(config))


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


async def default_tenant(store: Store) -> TenantRow:
    """The tenant that a fresh store starts with."""
    with contextlib.suppress(KeyTaken):  # by another server that starts on the same database
        tenants = {tenant.key: tenant for tenant in await store.list_tenants()}
        return tenants.get(DEFAULT_TENANT) or await store.create_tenant(DEFAULT_TENANT, "Default tenant")
    return await default_tenant(store)


async def owner_key(store: Store, tenant: TenantRow, clock: Clock) -> str | None:
    """Make sure that somebody can get in; returns the secret of a new owner key on the first start only.

    `SESSILE_OWNER_KEY` sets the owner key instead; one that it had set before is revoked.
    """
    given = os.environ.get("SESSILE_OWNER_KEY")
    existing = await store.list_keys(tenant.id)
    if given:
        if len(given) < 16:
            raise ConfigError("SESSILE_OWNER_KEY must have at least 16 characters.")
        digest = keys.digest(given)
        key_id = f"key_env_{digest.hex()[:12]}"
        row = keys.new_key(tenant.id, "SESSILE_OWNER_KEY", ["owner"], {}, clock.now(), key_id)
        await store.create_key(row, digest)
        stored = await store.find_key(digest)
        if stored is None or stored.revoked_at is not None or stored.tenant_id != tenant.id:
            raise ConfigError("SESSILE_OWNER_KEY holds a key that was revoked or is another tenant's; choose another.")
        for old in existing:
            if old.key_id.startswith("key_env_") and old.key_id != key_id:
                await store.revoke_key(tenant.id, old.key_id)
        return None
    if existing:
        return None
    secret = keys.new_secret()
    await store.create_key(keys.new_key(tenant.id, "owner", ["owner"], {}, clock.now()), keys.digest(secret))
    return secret


def build_app(config: Config, runtime: Runtime, metrics: Metrics | None = None, text: MetricsText | None = None) -> App:
    """The HTTP application over a runtime. `text`: what `/metrics` answers, unless it is what this process has counted.

    Raises ConfigError when `no_auth` would be open to other machines.
    """
    authenticator: Authenticator = keys.KeyAuthenticator(runtime.store, runtime.clock)
    loopback = config.host in ("127.0.0.1", "::1", "localhost")
    if config.no_auth:
        if not loopback:
            raise ConfigError("--no-auth is for loopback only; bind to 127.0.0.1 or use keys.")
        authenticator = keys.NoAuthentication(runtime.tenant.id)
    hosts = {config.host, *config.allowed_hosts}
    if not loopback and not config.allowed_hosts:
        hosts.add("*")
    gate = Gate(hosts, config.cors_origins)
    access, page = config.metrics.access, None
    if metrics is not None and access != "off":
        page = MetricsPage(access, CONTENT_TYPE, text or _metrics_text(runtime.store, metrics))
    return App(runtime.services, authenticator, gate, metrics or UNOBSERVED, page)


def serve(
    config: Config,
    providers: Mapping[str, Provider] | None = None,
    *,
    prepare: Callable[[Runtime], Awaitable[None]] | None = None,
    on_ready: Callable[[str, str | None], None] | None = None,
    share: Share | None = None,
) -> None:
    """Run a server until SIGTERM or SIGINT.

    `prepare` runs before the server listens. `on_ready` gets its URL, and the owner key if this start made one.
    With `share` it is one of several workers.

    Raises ConfigError, StorageUnavailable.
    """
    logs.configure(config.log_level, share.number if share else None)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(config, providers, prepare, on_ready or (lambda url, secret: None), share))


async def _serve(
    config: Config,
    providers: Mapping[str, Provider] | None,
    prepare: Callable[[Runtime], Awaitable[None]] | None,
    on_ready: Callable[[str, str | None], None],
    share: Share | None,
) -> None:
    metrics = _metrics(config)
    async with running(config, providers, metrics=metrics) as runtime, contextlib.AsyncExitStack() as open_things:
        meeting = None
        if share is not None and metrics is not None:
            text = _metrics_text(runtime.store, metrics)
            meeting = await open_things.enter_async_context(meet(share.meeting, share.number, config.workers, text))
        app = build_app(config, runtime, metrics, meeting)
        secret = await owner_key(runtime.store, runtime.tenant, runtime.clock)
        if prepare is not None:
            await prepare(runtime)

        async def drain() -> None:
            await runtime.drain(config)

        warming: list[asyncio.Task[None]] = []

        def ready(url: str) -> None:
            on_ready(url, secret)
            warming.append(asyncio.create_task(_warm_up(runtime.models)))

        seconds = config.drain_seconds + config.shutdown_seconds
        sockets = share.sockets if share else None
        protocol = bounded(config.limits.connections, config.limits.patience_seconds)
        await HttpServer(app, config.host, config.port, drain, seconds, ready, sockets, protocol).serve()
    await _end_stray_tasks()


def _observer(metrics: Metrics | None, traces: Any) -> TurnObserver:
    if metrics is not None and traces is not None:
        return Both(metrics, traces)
    observer: TurnObserver | None = metrics or traces
    return observer or UNOBSERVED


def _traces(config: Config, models: Registry) -> Any:
    """Where turns are sent as traces, or None. Raises ConfigError when the extra that this needs is not installed."""
    wanted = config.traces.enabled
    given = config.traces.endpoint or any(os.environ.get(name) for name in _OTLP_ENDPOINTS)
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (wanted or (wanted is None and given)):
        return None
    if wanted is None and os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return None
    try:
        module = importlib.import_module("sessile.telemetry.traces")  # here, because a server without traces needs none
    except ImportError:
        if wanted or config.traces.endpoint:
            raise ConfigError("traces: they need the extra `otel`: pip install 'sessile[otel]'.") from None
        _log.warning("traces_need_the_extra_otel")
        return None

    def describe(name: str) -> Any:
        try:
            described = models.describe(name)
        except UnknownModel:
            return module.Called("other", name)
        return module.Called(described.provider, described.place.model)

    return module.Traces(describe, config.traces.endpoint, config.traces.content)


def _metrics(config: Config) -> Metrics | None:
    if config.metrics.access == "off":
        return None
    return Metrics({*config.models, "default", "demo", "local"}, default_providers())


def _metrics_text(store: Store, metrics: Metrics) -> MetricsText:
    asking: asyncio.Future[Backlog] | None = None

    async def text() -> bytes:
        """What is counted here must not wait for a database that hangs: whoever scrapes would give up before."""
        nonlocal asking
        if asking is None or asking.done():
            asking = asyncio.ensure_future(store.backlog())
            asking.add_done_callback(lambda asked: asked.cancelled() or asked.exception())
        asked = asking
        await asyncio.wait([asked], timeout=_BACKLOG_SECONDS)
        try:
            return metrics.text(asked.result() if asked.done() else None)
        except StorageUnavailable:
            return metrics.text(None)

    return text


async def _warm_up(models: Registry) -> None:
    """What goes wrong here was logged, and the first turn that needs the model tries again."""
    with contextlib.suppress(ModelFault):
        await models.warm_up()


async def _end_stray_tasks() -> None:
    """A tool that swallows its cancellation would keep the process alive for ever; the store is closed by now."""
    stray = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in stray:
        task.cancel()
    if stray and (await asyncio.wait(stray, timeout=_STRAY_SECONDS))[1]:
        _log.error("tasks_would_not_end", tasks=[task.get_name() for task in stray])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _sweep_for_ever(sessions: Sessions) -> None:
    """Delete what is idle and remove what was deleted, slice by slice, and leave the writer to others in between."""
    while True:
        more = False
        with contextlib.suppress(StorageUnavailable):
            more = await sessions.sweep()
        await asyncio.sleep(0.005 if more else _SWEEP_IDLE_SECONDS)


async def _tidy_for_ever(artifacts: Artifacts) -> None:
    """Remove the bytes of files that nobody names any more; at first, and once an hour, also what a crash has left."""
    swept = -math.inf
    while True:
        more = False
        with contextlib.suppress(StorageUnavailable):
            if time.monotonic() - swept > _SWEEP_SECONDS:
                swept = time.monotonic()
                await artifacts.sweep()
            more = await artifacts.tidy()
        await asyncio.sleep(0.005 if more else _SWEEP_IDLE_SECONDS)


def _files(config: Config) -> Path:
    """The folder for files, beside the database file."""
    database = _database(config).resolve()
    return database.with_name(f"{database.name}.files")


def _database_file(config: Config) -> Path:
    """Where the database is, or would be."""
    return Path(config.data) / "sessile.db" if config.database is None else Path(config.database)


def _database(config: Config) -> Path:
    """The database file; with a server's database, the file that files and keys would stand beside."""
    if config.database is None or is_url(config.database):
        folder = Path(config.data)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / "sessile.db"
    file = Path(config.database)
    if file.name == ":memory:" or not file.parent.is_dir():
        raise ConfigError(f"The database {config.database!r} must be a file in a folder that exists.")
    return file
