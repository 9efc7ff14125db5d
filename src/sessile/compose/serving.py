"""The HTTP server over a runtime, in a process of its own."""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog
import uvloop
from msgspec import Struct

from sessile import logs
from sessile.api.app import App
from sessile.api.gate import Gate
from sessile.api.metrics import MetricsPage
from sessile.api.server import HttpServer, bounded
from sessile.compose.access import authenticator, is_loopback, owner_key
from sessile.compose.observing import metrics_text, new_metrics
from sessile.compose.runtime import Runtime, running
from sessile.config import Config
from sessile.models.registry import Provider, Registry
from sessile.observation import UNOBSERVED
from sessile.ports import ModelFault
from sessile.telemetry.metrics import CONTENT_TYPE, Metrics
from sessile.telemetry.workers import MetricsText, meet

_STRAY_SECONDS = 0.3
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


def build_app(config: Config, runtime: Runtime, metrics: Metrics | None = None, text: MetricsText | None = None) -> App:
    """The HTTP application over a runtime. `text`: what `/metrics` answers, unless it is what this process has counted.

    Raises ConfigError when `no_auth` would be open to other machines.
    """
    who = authenticator(config, runtime.store, runtime.tenant, runtime.clock)
    hosts = {config.host, *config.allowed_hosts}
    if not is_loopback(config) and not config.allowed_hosts:
        hosts.add("*")
    gate = Gate(hosts, config.cors_origins)
    access, page = config.metrics.access, None
    if metrics is not None and access != "off":
        page = MetricsPage(access, CONTENT_TYPE, text or metrics_text(runtime.store, metrics))
    return App(runtime.services, who, gate, metrics or UNOBSERVED, page)


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
    metrics = new_metrics(config)
    async with running(config, providers, metrics=metrics) as runtime, contextlib.AsyncExitStack() as open_things:
        meeting = None
        if share is not None and metrics is not None:
            text = metrics_text(runtime.store, metrics)
            meeting = await open_things.enter_async_context(meet(share.meeting, share.number, text))
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
