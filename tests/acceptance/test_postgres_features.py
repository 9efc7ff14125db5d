"""What a store has a part in, on PostgreSQL: some tests of other modules run here on another database.

Every case of what stores must do is in the contract suite; this shows that a server comes to it.
"""

import pytest

from acceptance import test_artifacts, test_compaction, test_forks, test_lists, test_portable, test_secrets
from acceptance.stage import Stage

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module")]

TOOL = 'def stock(item: str) -> dict:\n    """How many there are."""\n    return {"left": 3}\n'

test_a_file_comes_with_an_input = test_artifacts.test_a_file_comes_with_an_input_and_can_be_read
test_a_session_is_compacted = test_compaction.test_a_session_is_compacted_on_demand
test_a_change_meanwhile = test_compaction.test_a_change_while_the_model_summarises_makes_another_summary
test_a_fork_is_made_once = test_forks.test_a_fork_is_made_once
test_a_fork_up_to_an_event = test_forks.test_a_fork_up_to_an_event_is_a_what_if
test_a_filter_on_metadata = test_lists.test_a_filter_on_metadata
test_sessions_of_all_agents = test_lists.test_sessions_of_all_agents_by_status_and_time
test_an_import_beside_its_original = test_portable.test_an_import_beside_its_original_has_new_ids
test_secrets_of_a_session = test_secrets.test_secrets_of_a_session_are_shown_wherever_it_is


@pytest.fixture(scope="module")
def database(module_database: str) -> str:
    return module_database


@pytest.fixture(scope="module")
def tools() -> dict[str, str]:
    return {"fork_tools": TOOL}


@pytest.fixture(scope="module")
def tool_settings() -> str:
    # The first line still belongs to the table of the model, which comes right before.
    window = f"context_window = {test_compaction.WINDOW}\n"
    return f'{window}[tools.stock]\nfunction = "fork_tools:stock"\n'


async def test_agents_are_searched_too(stage: Stage) -> None:
    named, described = await stage.agent(name="Odd word 1"), await stage.agent(description="About an odd word.")
    await stage.agent()
    agents = (await stage.get("/v2/agents", filter="(?i)odd word"))["agents"]
    assert [agent["key"] for agent in agents] == [described, named]
