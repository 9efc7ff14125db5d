"""Every code block of README.md and docs/ is run as it stands there; and the runner notices what is not true."""

import re
from pathlib import Path

import pytest

from acceptance.documents import ROOT, RUN_ELSEWHERE, DocumentFailed, run

pytestmark = pytest.mark.acceptance

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

TRUE = """\
Files, one of which a script imports:

**`shop/orders.py`**

```python
STATUS = "shipped"


def lookup_order(order_number: str) -> dict[str, str]:
    \"\"\"Look up an order.\"\"\"
    return {"order_number": order_number, "status": STATUS}
```

**`shop.toml`**

```toml
[tools.lookup_order]
function = "shop.orders:lookup_order"
```

**`agent.json`**

```json
{
  "key": "shop",
  "name": "Shop",
  "model": {"name": "demo"},
  "tool_configurations": {"lookup_order": {"type": "lambda"}}
}
```

Before there is a server:

```sh
mkdir notes && cd notes
export GREETING="it's here"
echo "no export" > /dev/null
```

```sh
pwd; echo "$GREETING"; cd ..; echo "and a complaint" >&2
```

```text
…/notes
it's here
and a complaint
```

A server with this configuration:

```sh
make test    # is run elsewhere
sessile serve --config shop.toml --port 9000
```

```console
…ready at http://127.0.0.1:9000…
```

```sh
call() { curl -s -H "x-api-key: $SESSILE_API_KEY" -H 'content-type: application/json' "$@"; }
call http://127.0.0.1:9000/v2/agents -d @agent.json > created.json
call $SESSILE_URL/v2/agents/shop/sessions -d '{"key": "first"}' > created.json
call localhost:9000/v2/agents/shop/sessions/first/events -d '{"content": "Where is my order A-1042?"}'
```

```json
{
  "events": [
    {"type": "input_message", "content": "Where is my order A-1042?", "id": "aev_…", "…": "…"},
    {"type": "thinking", "…": "…"},
    {"type": "tool_input", "tool_input": {"order_number": "A-1042"}, "…": "…"},
    {"type": "tool_output", "tool_output": {"order_number": "A-1042", "status": "shipped"}, "…": "…"},
    "…"
  ],
  "stop_reason": "end_turn",
  "…": "…"
}
```

```python
import os
import urllib.request

from shop.orders import STATUS

request = urllib.request.Request(
    os.environ["SESSILE_URL"] + "/v2/agents", headers={"x-api-key": os.environ["SESSILE_API_KEY"]}
)
with urllib.request.urlopen(request) as answer:
    print(STATUS, answer.status, os.environ["GREETING"])
```

```text
shipped 200 it's here
```

Then another one, on the same data:

```sh
sessile serve &
```

```sh
curl -s -H "x-api-key: $SESSILE_API_KEY" http://127.0.0.1:8700/v2/agents/shop
```

```json
{"key": "shop", "…": "…"}
```

A newcomer's folder has nothing but this:

```sh
ls
```

```text
agent.json
created.json
data
line_…
shop…
```
"""

FALSE = [
    ("```sh\nfalse\n```", "line 1: it ended with status 1"),
    ("```sh\nfalse | true\n```", "line 1: it ended with status 1"),
    ("```sh\necho $NOT_SET\n```", "NOT_SET"),
    ("```sh\necho $OPENAI_API_KEY\n```", "OPENAI_API_KEY"),
    ("```sh\ncurl -sf http://127.0.0.1:8700/absent\n```", "line 1: it ended with status 22"),
    ('```sh\ntrue\n```\n\n```python\nraise SystemExit("no")\n```', "line 5: it ended with status 1"),
    ("```sh\necho a\n```\n\n```text\nb\n```", "line 5: this was printed instead:\na"),
    ("```sh\necho a >&2\n```\n\n```text\nb…\n```", "line 5: this was printed instead:\na"),
    ("```sh\necho '[1]'\n```\n\n```json\n[2]\n```", "line 5: this was printed instead"),
    ("```sh\necho a\n```\n\n```json\n[2]\n```", "line 5: this was printed instead"),
    ("```sh\necho a\n```\n\n```text\na\n```\n\n```text\na\n```", "line 9: this is shown as output"),
    ("```sh\necho a\n```\n\n```text\n…\n```", "line 5: output that shows nothing"),
    ("```json\n[]\n```", "line 1: this is shown as output"),
    ("```ruby\nputs 1\n```", "line 1: a language that no block can have"),
    ("```\nls\n```", "line 1: a language that no block can have"),
    ("**`a.json`**\n```json\n{\n```", "line 2: "),
    ("**`a.py`**\n```python\ndef\n```", "line 2: "),
    ("**`a.toml`**\n```toml\nhots = 1\n```", "line 2: configuration: .*hots"),
    ("```toml\n[models.a]\n```", "line 1: configuration: .*provider"),
    ("**`../a.json`**\n```json\n{}\n```", "not in the folder"),
    ("```sh\nsessile serve --config absent.toml\n```", "line 1: the server did not start(.|\n)*absent.toml"),
]


@pytest.fixture(autouse=True)
def keys_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that the machine may have are nothing that a newcomer has."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-this-machine")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_is_true(document: Path, tmp_path: Path) -> None:
    run(document, tmp_path / "reader")


@pytest.mark.parametrize("command", RUN_ELSEWHERE)
def test_what_runs_a_command_elsewhere_is_there(command: str) -> None:
    file, text = RUN_ELSEWHERE[command]
    assert re.search(rf"^\s*{re.escape(text)}", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def test_a_document_that_is_true_passes(tmp_path: Path) -> None:
    (tmp_path / "true.md").write_text(TRUE, encoding="utf-8")
    run(tmp_path / "true.md", tmp_path / "reader")


def test_make_run_is_what_a_document_finds(tmp_path: Path) -> None:
    told = '```sh\n{}curl -sf -H "x-api-key: $SESSILE_API_KEY" $SESSILE_URL/v2/agents/agt_customer_support\n```\n'
    for number, start in enumerate(("", "make run\n```\n\n```text\n…ready at http://127.0.0.1:8700…\n```\n\n```sh\n")):
        (tmp_path / "sample.md").write_text(told.format(start), encoding="utf-8")
        run(tmp_path / "sample.md", tmp_path / f"reader_{number}")


@pytest.mark.parametrize(("text", "reason"), FALSE)
def test_a_document_that_is_false_fails(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "false.md").write_text(text + "\n", encoding="utf-8")
    with pytest.raises(DocumentFailed, match=reason):
        run(tmp_path / "false.md", tmp_path / "reader")
