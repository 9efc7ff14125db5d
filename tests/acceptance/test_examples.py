"""Every example is run as its reader would run it: with the demo model, and with a model behind a provider."""

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from sessile.models.providers import ENDPOINTS
from sessile.testing.script import Step, call, say
from sessile.testing.upstream import Received, Upstream

pytestmark = pytest.mark.acceptance

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
WAIT_SECONDS = 120
KEYS = {endpoint.key_variable for endpoint in ENDPOINTS.values()}
REAL_ANSWER = "A real model says so."


async def run(script: str, folder: Path, *arguments: str, typed: str = "", **variables: str) -> str:
    """What an example prints; it ends well, complains of nothing, and leaves nothing in the folder where it runs."""
    inherited = {name: value for name, value in os.environ.items() if name not in KEYS}
    temporary, here = folder / "temporary", folder / "here"
    temporary.mkdir()
    here.mkdir()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / script), *arguments),
        cwd=here,
        env={**inherited, "TMPDIR": str(temporary), **variables},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(typed.encode()), WAIT_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (process.returncode, err.decode()) == (0, "")
    assert [*here.iterdir(), *temporary.iterdir()] == []
    return out.decode()


def test_the_tour_lists_every_example_and_each_is_short() -> None:
    tour = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| \[`python examples/(\w+\.py)`\]\(\1\)", tour, re.MULTILINE)) == SCRIPTS
    for script in SCRIPTS:
        text = (EXAMPLES / script).read_text(encoding="utf-8")
        assert text.count("\n") < 80
        assert f"python examples/{script} " in text


async def test_the_support_agent_looks_orders_up(tmp_path: Path) -> None:
    printed = await run("support_agent.py", tmp_path)
    assert '  tool  lookup_order({"order_number": "A-1042"})\n' in printed
    assert '"status": "shipped", "carrier": "Parcel Post"' in printed
    assert "Agent:  The tool lookup_order answered: order_number: A-1043, status: being packed" in printed
    assert printed.count("[end_turn]") == 2
    kinds = re.findall(r"^ +\d+  (\w+)$", printed, re.MULTILINE)
    assert kinds == ["input_message", "thinking", "tool_input", "tool_output", "thinking", "agent_output"] * 2


@pytest.mark.parametrize(
    ("typed", "outcome"),
    [
        ("y\n", "refunded: true, approved_by: Ben"),
        ("n\n", "error: Ben has declined this refund."),
        ("", "error: Ben has declined this refund."),
    ],
)
async def test_a_person_approves_or_declines(tmp_path: Path, typed: str, outcome: str) -> None:
    printed = await run("approval.py", tmp_path, typed=typed)
    assert "[requires_action]" in printed
    assert "The agent wants refund {'order_number': 'A-1042'}. Approve? [y/n] " in printed
    assert f"Agent:  The tool refund answered: {outcome}" in printed
    assert printed.endswith("[end_turn]\n")
    assert printed.index("[requires_action]") < printed.index("is closed") < printed.index("Approve?")


async def test_a_copy_goes_another_way(tmp_path: Path) -> None:
    printed = await run("what_if.py", tmp_path)
    first, copy = (" ".join(part.split()) for part in printed.split("== bergen-rain, a copy of bergen"))
    start = "You: We have three days in Bergen."
    assert first.startswith("== bergen You: ")
    assert start in first
    assert start in copy
    assert "You wrote: “The sun will shine." in first
    assert "You wrote: “What if it rains?" in copy
    assert "rains" not in first
    assert "sun" not in copy


async def test_an_agent_asks_another_one(tmp_path: Path) -> None:
    printed = await run("sub_agent.py", tmp_path)
    question = "Please ask the warehouse where my order A-1042 is."
    lines = [f"Anna:       {question}", f'Desk:       warehouse({{"message": "{question}"}})']
    lines += ['Warehouse:  find_order({"order_number": "A-1042"})']
    lines += ['Warehouse:  {"order_number": "A-1042", "shelf": "C-7", "packed": true}']
    assert printed.splitlines()[:4] == lines
    assert "Warehouse:  The tool find_order answered: order_number: A-1042, shelf: C-7, packed: true." in printed
    assert "Desk:       The tool warehouse answered: agent_key: warehouse, session_key: " in printed
    assert "A session of desk/anna in the warehouse:" in printed
    kinds = re.findall(r"^ +\d+  (\w+)$", printed, re.MULTILINE)
    assert kinds == ["input_message", "thinking", "tool_input", "tool_output", "thinking", "agent_output"]


async def test_a_session_moves_to_another_database(tmp_path: Path) -> None:
    printed = await run("export_import.py", tmp_path)
    kinds = re.findall(r"^  (\w+) +(\w*)$", printed, re.MULTILINE)
    events = ("input_message", "turn_started", "thinking", "agent_output", "turn_ended")
    assert kinds == [("session", ""), ("agent", ""), *(("event", kind) for kind in events)]
    assert "The hash at its end is right." in printed
    assert "Changed on the way, it is refused: " in printed
    assert "SHA-256" in printed
    assert "You wrote: “Which number was it?”" in printed
    assert printed.endswith("The log has 10 events now, and breaks 0 rules.\n")


def as_a_real_model(request: Received) -> list[Step]:
    """Call the tool that is offered, once for each question; then say something."""
    tools = request.body.get("tools")
    if tools and request.messages[-1]["role"] == "user":
        function = tools[0]["function"]
        return [call(function["name"], dict.fromkeys(function["parameters"]["required"], "A-1042"))]
    return [say(REAL_ANSWER)]


@pytest.mark.parametrize("script", SCRIPTS)
async def test_it_works_with_a_model_of_a_provider(tmp_path: Path, script: str) -> None:
    """`default` is the provider whose key is set, as a newcomer would have it."""
    async with Upstream(as_a_real_model) as upstream:
        variables = {"OPENAI_API_KEY": "sk-test-openai", "OPENAI_BASE_URL": upstream.base_url}
        printed = await run(script, tmp_path, "default", typed="y\n", SESSILE_DEFAULT_MODEL="", **variables)
        assert REAL_ANSWER in printed
        assert "demo" not in printed
        assert len(upstream.requests) == {"support_agent.py": 4, "sub_agent.py": 4, "what_if.py": 3}.get(script, 2)
        assert upstream.requests[0].headers["Authorization"] == "Bearer sk-test-openai"


async def test_a_real_model_may_call_no_tool(tmp_path: Path) -> None:
    """What an example shows is up to the model; it never fails because of that."""
    async with Upstream(lambda _: [say(REAL_ANSWER)]) as upstream:
        variables = {"OPENAI_API_KEY": "sk-test-openai", "OPENAI_BASE_URL": upstream.base_url}
        for script in ("support_agent.py", "sub_agent.py", "approval.py"):
            folder = tmp_path / script
            folder.mkdir()
            printed = await run(script, folder, "default", SESSILE_DEFAULT_MODEL="", **variables)
            assert REAL_ANSWER in printed
            assert "Approve?" not in printed
