"""Who is told what happens: metrics and traces."""

import importlib
import os
from typing import Any

import structlog

from sessile.config import Config, ConfigError
from sessile.models.providers import default_providers
from sessile.models.registry import Registry
from sessile.observation import UNOBSERVED, TurnObserver
from sessile.ports import Store
from sessile.telemetry.both import Both
from sessile.telemetry.metrics import Metrics
from sessile.telemetry.workers import MetricsText
from sessile.wire.errors import StorageUnavailable, UnknownModel

_OTLP_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_log = structlog.get_logger("sessile")


def new_metrics(config: Config) -> Metrics | None:
    """What counts what happens in this process, or None."""
    if config.metrics.access == "off":
        return None
    return Metrics({*config.models, "default", "demo", "local"}, default_providers())


def metrics_text(store: Store, metrics: Metrics) -> MetricsText:
    """What `/metrics` answers of this process."""

    async def text() -> bytes:
        try:
            return metrics.text(await store.backlog())
        except StorageUnavailable:
            return metrics.text(None)

    return text


def open_traces(config: Config, models: Registry) -> Any:
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


def turn_observer(metrics: Metrics | None, traces: Any) -> TurnObserver:
    """Who hears of turns."""
    if metrics is not None and traces is not None:
        return Both(metrics, traces)
    observer: TurnObserver | None = metrics or traces
    return observer or UNOBSERVED
