"""What is counted, under which names, and that no label can grow without bound."""

from prometheus_client.parser import text_string_to_metric_families

from sessile.rows import Backlog
from sessile.telemetry.metrics import Metrics
from sessile.telemetry.workers import merged
from sessile.wire.sessions import Usage
from unit.test_protocol_document import keyed, named, tables

BACKLOG = Backlog(waiting_inputs=3, running_turns=2, parked_turns=1, purges=4)


def metrics() -> Metrics:
    made = Metrics({"configured"}, {"openai"})
    made.watch(lambda: 5, lambda: 6, lambda: 7)
    return made


def samples(made: Metrics, backlog: Backlog | None = BACKLOG) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, in the order of their names."""
    text = made.text(backlog).decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_protocol_names_every_metric_with_its_kind_and_labels() -> None:
    rows = {}
    for family in metrics().registry.collect():
        if family.name.startswith("process_"):
            continue
        (labels,) = {tuple(getattr(collector, "_labelnames", ())) for collector in collectors(family.name)}
        info = family.type == "info"
        rows[f"{family.name}_info" if info else family.name] = (family.type, () if info else labels)
    for family in text_string_to_metric_families(merged({1: None}).decode()):
        rows[family.name] = (family.type, ("worker",))
    written = {
        name: (row["Kind"], tuple(named(row["Labels"].split(":")[0])) if row["Kind"] != "info" else ())
        for name, row in keyed("Metric").items()
    }
    assert {name: kind for name, (kind, _) in written.items()} == {name: kind for name, (kind, _) in rows.items()}
    for name, row in zip(written, tables()["Metric"], strict=True):
        for label in rows[name][1]:
            assert f"`{label}`" in row["Labels"], name


def collectors(family: str) -> list[object]:
    """The collectors of a family in a fresh registry."""
    registry = metrics().registry
    return [registry._names_to_collectors[family]]


def test_what_the_store_has_to_do_is_shown() -> None:
    found = samples(metrics())
    assert found["sessile_inputs_waiting",] == 3
    assert (found["sessile_turns_unfinished", "running"], found["sessile_turns_unfinished", "parked"]) == (2, 1)
    assert found["sessile_purges_waiting",] == 4
    assert (found["sessile_turns_running",], found["sessile_followers",], found["sessile_store_up",]) == (5, 7, 1)
    assert found["sessile_turns_waiting",] == 6


def test_without_the_store_the_rest_is_shown() -> None:
    made = metrics()
    made.text(BACKLOG)
    found = samples(made, None)
    assert (found["sessile_store_up",], found["sessile_inputs_waiting",]) == (0, 3)


def test_models_that_callers_invent_make_no_labels() -> None:
    made = metrics()
    assert made.model_label("configured") == "configured"
    assert {made.model_label(f"openai:{number}") for number in range(1000)} == {"openai:*"}
    assert {made.model_label(name) for name in ("elsewhere:x", "x", "", ":")} == {"other"}


def test_methods_and_paths_that_callers_invent_make_no_labels() -> None:
    made = metrics()
    for number in range(1000):
        made.request(f"BREW{number}", "", 405, 0.001)
    made.request("GET", "/v2/agents", 200, 0.001)
    found = samples(made)
    assert found["sessile_http_requests_total", "other", "other", "405"] == 1000
    assert found["sessile_http_requests_total", "GET", "/v2/agents", "200"] == 1
    assert len([key for key in found if key[0] == "sessile_http_requests_total"]) == 2


def test_usage_counts_by_kind_whether_or_not_a_call_succeeds() -> None:
    made = metrics()
    numbers = made.turns
    numbers.count_model_call("configured", "ok", Usage(input_tokens=5, output_tokens=2, reasoning_tokens=1), 0.1)
    numbers.count_model_call("configured", "model_timeout", Usage(), 0.1)
    found = samples(made)
    assert found["sessile_model_calls_total", "configured", "ok"] == 1
    assert found["sessile_model_calls_total", "configured", "model_timeout"] == 1
    assert {key[1]: value for key, value in found.items() if key[0] == "sessile_model_tokens_total"} == {
        "input": 5,
        "output": 2,
        "reasoning": 1,
    }


def test_deltas_and_their_lag() -> None:
    made = metrics()
    for deltas, seconds in ((3, 0.0001), (1, 0.0006), (2, 9.0)):
        made.sent(deltas, seconds)
    found = samples(made)
    assert found["sessile_deltas_sent_total",] == 6
    assert found["sessile_delta_lag_seconds_count",] == 3
    assert found["sessile_delta_lag_seconds_sum",] == 9.0007
    buckets = {key[1]: value for key, value in found.items() if key[0] == "sessile_delta_lag_seconds_bucket"}
    assert (buckets["0.0001"], buckets["0.0005"], buckets["0.001"]) == (1, 1, 2)
    assert (buckets["2.5"], buckets["+Inf"]) == (2, 3)
