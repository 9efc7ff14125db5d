"""The README's commands, run as they stand in it."""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sessile.config import Config
from sessile.testing.server import ServerProcess

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
SUPPORT = ROOT / "examples" / "support"


def block(containing: str) -> str:
    """The one code block that contains a text."""
    (found,) = [text for _, text in BLOCKS if containing in text]
    return found


def run(script: str, server: ServerProcess, folder: Path) -> str:
    """Run a script in bash as somebody who has just installed Sessile."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "SESSILE_API_KEY": server.key, "COLUMNS": "200"}
    script = script.replace("http://127.0.0.1:8700", server.url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    made = ServerProcess(
        tmp_path,
        (SUPPORT / "sessile.toml").read_text(),
        arguments=["--sample", str(SUPPORT / "agent.json")],
        env={"PYTHONPATH": str(SUPPORT)},
    )
    with made:
        yield made


def test_the_sample_curl_streams_an_answer_with_a_tool_call(server: ServerProcess) -> None:
    answer = run(block("curl -N"), server, server.folder)
    types = re.findall(r"^event: (\w+)$", answer, re.MULTILINE)
    assert (types[0], types[-1]) == ("input_message", "end")
    assert {"streaming_thinking", "tool_input", "tool_output", "streaming_agent_output_end"} <= set(types)
    assert "Parcel Post" in answer


def test_an_agent_a_session_and_a_talk(server: ServerProcess) -> None:
    answers = run(block("export SESSILE_URL"), server, server.folder)
    agent, session, turn, events = _documents(answers)
    assert (agent["key"], session["key"], turn["stop_reason"]) == ("helper", "first", "end_turn")
    assert [event["type"] for event in events["events"]] == [event["type"] for event in turn["events"]]


def test_the_sdk_lists_sessions(server: ServerProcess) -> None:
    run(block("export SESSILE_URL"), server, server.folder)
    script = "import os\n" + block("from vectara import").replace("http://127.0.0.1:8700", server.url)
    python = f"{sys.executable} - <<'SCRIPT'\n{script}\nSCRIPT\n"
    assert run(python, server, server.folder).strip() == "first First talk"


def test_administration(server: ServerProcess) -> None:
    printed = run(block("sessile keys create"), server, server.folder)
    assert printed.count("sk-sessile-") == 2
    assert "web shop" in printed


def test_the_configuration_is_valid() -> None:
    config = msgspec.convert(tomllib.loads(block("[models.")), Config)
    assert config.models["gpt-4o"].context_window == 128_000


def test_the_tool_of_the_readme_can_be_described() -> None:
    scope: dict[str, object] = {}
    exec(block("def lookup_order"), scope)
    assert callable(scope["lookup_order"])


def _documents(text: str) -> list[Any]:
    """JSON documents that stand one behind the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found
