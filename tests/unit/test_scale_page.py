"""The page about scale holds the tables that the simulation gives."""

from pathlib import Path

from benchmarks.scale import Costs, Load, databases, node, report, store

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_page_holds_the_tables_of_the_simulation() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in report(Load(), Costs()).split("\n\n"):
        assert table.strip() in page, "write it again: python -m benchmarks.scale"


def test_a_store_that_is_asked_for_more_than_it_can_do_falls_behind() -> None:
    costs = Costs(transaction_us=50, append_us=100, postgres_cores=1)
    easy, hard = store(3_000, 4, costs, seconds=2), store(12_000, 4, costs, seconds=2)
    assert easy.busy < 0.6 < 1 < hard.busy
    assert hard.p99_ms > 10 * easy.p99_ms


def test_many_nodes_make_small_transactions_which_cost_more() -> None:
    costs = Costs(postgres_cores=1)
    few, many = store(2_000, 1, costs, seconds=2), store(2_000, 200, costs, seconds=2)
    assert few.busy < 0.8 < 0.99 < many.busy
    assert databases(2_000, 200, costs) > databases(2_000, 1, costs)


def test_a_busy_node_writes_larger_frames_and_later() -> None:
    costs, load = Costs(), Load(speaking=1)
    few, many = node(10, 10, load, costs, seconds=1), node(200, 20, load, costs, seconds=1)
    assert few.busy < 0.6 < many.busy <= 1.01
    assert many.p99_ms > 5 * few.p99_ms
