"""What a server counts, as Prometheus reads it. No label has values that callers choose: neither keys nor ids."""

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0, generate_latest
from prometheus_client.utils import floatToGoString

from sessile.domain.messages import Message
from sessile.domain.turn import ModelAnswer
from sessile.observation import ModelCallWatch, ToolCallWatch
from sessile.rows import Backlog, Claim
from sessile.wire.sessions import StopReason, Usage

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
_COMMIT_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_LAGS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5)
_ANSWERS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TURNS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"})
OTHER = "other"


class Metrics:
    """The observer that counts, and the text that `/metrics` answers with. It has a registry of its own."""

    def __init__(self, models: Collection[str], providers: Collection[str]) -> None:
        """`models` and `providers`: the names that labels may hold; all other models are `PROVIDER:*`, or `other`."""
        self.registry = CollectorRegistry()
        self.turns = TurnNumbers(self.registry)
        self._models = frozenset(models)
        self._providers = frozenset(providers)
        registry = self.registry
        ProcessCollector(registry=registry)
        info = Info("sessile_build", "The version that runs.", registry=registry)
        info.info({"version": version("sessile"), "python": platform.python_version()})
        self._deltas = DeltaNumbers()
        registry.register(self._deltas)
        self._batch = Histogram(
            "sessile_commit_batch_verbs", "Writes in one commit.", buckets=_BATCHES, registry=registry
        )
        self._commit = Histogram(
            "sessile_commit_seconds",
            "How long a commit takes to be durable.",
            buckets=_COMMIT_SECONDS,
            registry=registry,
        )
        self._failed = Counter("sessile_commits_failed", "Commits that failed.", registry=registry)
        self._requests = Counter(
            "sessile_http_requests", "Requests that were answered.", ["method", "route", "status"], registry=registry
        )
        self._answers = Histogram(
            "sessile_http_request_seconds",
            "From the head of a request to the head of its answer; what a stream takes afterwards is not in it.",
            ["method", "route"],
            buckets=_ANSWERS,
            registry=registry,
        )
        self._known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._waiting = Gauge("sessile_inputs_waiting", "Inputs of all sessions that wait.", registry=registry)
        self._unfinished = Gauge(
            "sessile_turns_unfinished", "Turns in the database that have not ended.", ["state"], registry=registry
        )
        self._purges = Gauge("sessile_purges_waiting", "Deletions whose rows are not all removed.", registry=registry)
        self._backlog_ok = Gauge("sessile_store_up", "Whether the store could be asked for this.", registry=registry)

    def watch(self, running: Callable[[], int], waiting: Callable[[], int], followers: Callable[[], int]) -> None:
        """Where to look for what is there at the moment."""
        gauge = Gauge("sessile_turns_running", "Turns that this process runs.", registry=self.registry)
        gauge.set_function(running)
        gauge = Gauge("sessile_turns_waiting", "Turns that wait for a slot of this process.", registry=self.registry)
        gauge.set_function(waiting)
        gauge = Gauge("sessile_followers", "Streams and answers that follow a session here.", registry=self.registry)
        gauge.set_function(followers)

    def text(self, backlog: Backlog | None) -> bytes:
        """All of it; without a backlog the store does not answer."""
        self._backlog_ok.set(backlog is not None)
        if backlog is not None:
            self._waiting.set(backlog.waiting_inputs)
            self._unfinished.labels("running").set(backlog.running_turns)
            self._unfinished.labels("parked").set(backlog.parked_turns)
            self._purges.set(backlog.purges)
        return generate_latest(self.registry)

    def accepted(self, turn_id: str) -> None:
        """Requests are counted elsewhere."""

    def turn(self, claim: Claim) -> "TurnCount":
        """Count a turn."""
        return TurnCount(self.turns, self.model_label, claim)

    def leases(self, renewed: int, lost: int) -> None:
        """Count leases."""
        self.turns.renewed.inc(renewed)
        self.turns.lost.inc(lost)

    def committed(self, verbs: int, seconds: float) -> None:
        """Count a commit."""
        self._batch.observe(verbs)
        self._commit.observe(seconds)

    def commit_failed(self) -> None:
        """Count a commit that failed."""
        self._failed.inc()

    def sent(self, deltas: int, seconds: float) -> None:
        """Count the deltas of one write."""
        self._deltas.add(deltas, seconds)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = self._known.get((method, route, status))
        if known is None:
            labels = method if method in _METHODS else OTHER, route or OTHER
            known = self._requests.labels(*labels, str(status)), self._answers.labels(*labels)
            if method in _METHODS:
                self._known[method, route, status] = known
        known[0].inc()
        known[1].observe(seconds)

    def model_label(self, name: str) -> str:
        """What a model is counted under."""
        if name in self._models:
            return name
        provider, colon, _ = name.partition(":")
        return f"{provider}:*" if colon and provider in self._providers else OTHER


class DeltaNumbers:
    """Deltas and their lag, in plain numbers that only the event loop writes: every write of a stream is told."""

    def __init__(self) -> None:
        self._deltas = 0
        self._seconds = 0.0
        self._writes = [0] * (len(_LAGS) + 1)

    def add(self, deltas: int, seconds: float) -> None:
        """Count a write."""
        self._deltas += deltas
        self._seconds += seconds
        self._writes[bisect_left(_LAGS, seconds)] += 1

    def describe(self) -> list[Metric]:
        """What `collect` gives, for the registry."""
        return self.collect()

    def collect(self) -> list[Metric]:
        """The counter and the histogram."""
        bounds = [*map(floatToGoString, _LAGS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self._writes)), strict=True))
        return [
            CounterMetricFamily(
                "sessile_deltas_sent", "Frames sent to followers that no log holds.", value=self._deltas
            ),
            HistogramMetricFamily(
                "sessile_delta_lag_seconds",
                "From what a model sent to the write of the frame on a follower's socket: the first of each write.",
                buckets,
                self._seconds,
            ),
        ]


class TurnNumbers:
    """What is counted of turns."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.started = Counter(
            "sessile_turns_started", "Turns that this process began to run.", ["how"], registry=registry
        )
        self.ended = Counter(
            "sessile_turns_ended", "Turns that this process ended.", ["stop_reason"], registry=registry
        )
        self.parked = Counter("sessile_turns_parked", "Times a turn began to wait for clients.", registry=registry)
        self.left = Counter(
            "sessile_turns_left", "Turns that this process left: to the next start, or because another has them.",
            ["why"], registry=registry,
        )  # fmt: skip
        self.errors = Counter(
            "sessile_turn_errors",
            "Turns that ended with an error or a limit, by its code.",
            ["code"],
            registry=registry,
        )
        self.seconds = Histogram(
            "sessile_turn_seconds", "From the claim of a turn to its durable end, when one process ran it all.",
            buckets=_TURNS, registry=registry,
        )  # fmt: skip
        self.first_delta = Histogram(
            "sessile_turn_first_delta_seconds", "From the claim of a turn to the first piece of a model's answer.",
            buckets=_TURNS, registry=registry,
        )  # fmt: skip
        self.renewed = Counter("sessile_lease_renewals", "Leases of turns that were renewed.", registry=registry)
        self.lost = Counter("sessile_lease_losses", "Leases that another process has taken.", registry=registry)
        self.model_calls = Counter(
            "sessile_model_calls", "Calls of models, `ok` or the code of an error.", ["model", "outcome"],
            registry=registry,
        )  # fmt: skip
        self.model_seconds = Histogram(
            "sessile_model_call_seconds", "How long calls of models take.", ["model"], buckets=_TURNS, registry=registry
        )
        self.tokens = Counter(
            "sessile_model_tokens", "Tokens as the provider counts them; cached and reasoning are parts of the totals.",
            ["model", "kind"], registry=registry,
        )  # fmt: skip
        self.tool_calls = Counter(
            "sessile_tool_calls", "Calls of tools by type of configuration, `ok` or the code of an error.",
            ["type", "outcome"], registry=registry,
        )  # fmt: skip
        self.tool_seconds = Histogram(
            "sessile_tool_call_seconds", "How long calls of tools take.", ["type"], buckets=_TURNS, registry=registry
        )

    def count_model_call(self, label: str, outcome: str, usage: Usage, seconds: float) -> None:
        """Count a call of a model."""
        self.model_calls.labels(label, outcome).inc()
        self.model_seconds.labels(label).observe(seconds)
        for kind, count in (
            ("input", usage.input_tokens),
            ("cached", usage.cached_tokens),
            ("output", usage.output_tokens),
            ("reasoning", usage.reasoning_tokens),
        ):
            if count:
                self.tokens.labels(label, kind).inc(count)


class TurnCount:
    """A turn that is counted."""

    def __init__(self, numbers: TurnNumbers, model_label: Callable[[str], str], claim: Claim) -> None:
        self._numbers = numbers
        self.model_label = model_label
        self._fresh = bool(claim.opened)
        self._began = time.perf_counter()
        self._spoke = False
        self._over = False
        numbers.started.labels("new" if self._fresh else "continued").inc()

    def model_call(self, model: str, messages: Sequence[Message], parameters: Mapping[str, Any]) -> ModelCallWatch:
        """Count a model call."""
        return _ModelCallCount(self, self.model_label(model))

    def tool_call(self, kind: str, name: str, tool_call_id: str, arguments: Mapping[str, Any]) -> ToolCallWatch:
        """Count a call of a tool."""
        return _ToolCallCount(self._numbers, kind)

    def spoke(self) -> None:
        """A model has begun to answer."""
        if self._fresh and not self._spoke:
            self._spoke = True
            self._numbers.first_delta.observe(time.perf_counter() - self._began)

    def ended(self, stop_reason: StopReason, code: str | None) -> None:
        """Count the end."""
        self._over = True
        self._numbers.ended.labels(stop_reason).inc()
        if code is not None:
            self._numbers.errors.labels(code).inc()
        if self._fresh:
            self._numbers.seconds.observe(time.perf_counter() - self._began)

    def parked(self) -> None:
        """Count that it waits for clients."""
        self._over = True
        self._numbers.parked.inc()

    def left(self, lost: bool) -> None:
        """Count that it goes on elsewhere."""
        if not self._over:
            self._over = True
            self._numbers.left.labels("lost" if lost else "left").inc()

    @property
    def numbers(self) -> TurnNumbers:
        """Where it is counted."""
        return self._numbers


class _ModelCallCount:
    def __init__(self, turn: TurnCount, label: str) -> None:
        self._turn = turn
        self._label = label
        self._began = time.perf_counter()
        self._over = False

    def first_delta(self) -> None:
        self._turn.spoke()

    def ended(self, usage: Usage, finish_reason: str | None, answer: ModelAnswer | None) -> None:
        self._count("ok", usage)

    def failed(self, code: str, usage: Usage) -> None:
        self._count(code, usage)

    def cancelled(self, usage: Usage) -> None:
        if not self._over:
            self._count("cancelled", usage)

    def _count(self, outcome: str, usage: Usage) -> None:
        self._over = True
        self._turn.numbers.count_model_call(self._label, outcome, usage, time.perf_counter() - self._began)


class _ToolCallCount:
    def __init__(self, numbers: TurnNumbers, kind: str) -> None:
        self._numbers = numbers
        self._kind = kind
        self._began = time.perf_counter()
        self._over = False

    def ended(self, code: str | None, result: Mapping[str, Any]) -> None:
        self._over = True
        self._numbers.tool_calls.labels(self._kind, code or "ok").inc()
        self._numbers.tool_seconds.labels(self._kind).observe(time.perf_counter() - self._began)

    def cancelled(self) -> None:
        if not self._over:
            self.ended("cancelled", {})
