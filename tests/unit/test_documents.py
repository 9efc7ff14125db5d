import pytest

from acceptance.documents import Block, DocumentFailed, Step, alike, matches, parse, steps

SAMPLE = """\
# Title

Some `inline` code, and a block:

```sh
echo "one"   # two
```

It prints:
```text
one
```

**`shop/tools.py`**

```python
def tool() -> None: ...
```

1. In a list

   **`sessile.toml`**
   ```toml
   port = 1
   ```

Not **`a.json`** alone on its line:

~~~json
{}
~~~
"""


def test_blocks_are_found_in_order_with_their_files() -> None:
    assert parse(SAMPLE) == [
        Block("sh", 'echo "one"   # two\n', 5),
        Block("text", "one\n", 10),
        Block("python", "def tool() -> None: ...\n", 16, "shop/tools.py"),
        Block("toml", "port = 1\n", 23, "sessile.toml"),
        Block("json", "{}\n", 29),
    ]


def test_a_file_name_counts_for_the_block_right_after_it_only() -> None:
    text = "**`a.txt`**\n\n```text\na\n```\n\n```text\nb\n```\n\n**`c.txt`**\n\nwords\n\n```text\nd\n```\n"
    assert [block.file for block in parse(text)] == ["a.txt", None, None]
    assert [block.file for block in parse("words\n**`a.txt`**\n```text\na\n```\n")] == ["a.txt"]


@pytest.mark.parametrize(
    "text",
    [
        "words\n\n    indented = 1\n",
        "<pre>code</pre>\n",
        "```sh\nls\n",
        "<details>\n```sh\nls\n```\n</details>\n",
        "<!--\n```sh\nls\n```\n-->\n",
    ],
)
def test_code_that_would_not_be_run_is_refused(text: str) -> None:
    with pytest.raises(DocumentFailed):
        parse(text)


@pytest.mark.parametrize(
    ("shown", "actual", "same"),
    [
        ("a\nb\n", "a  \nb", True),
        ("a\nb\n", "a\nb\nc\n", False),
        ("a…c\n", "a b\n b c\n", True),
        ("a…c\n", "a b\n", False),
        ("…b\n", "a.b", True),
        ("a.b", "axb", False),
        ("  a\n", "a\n", False),
        ("a\n…\n", "a\nb\nc\n", True),
    ],
)
def test_output_is_compared_with_any_text_for_an_ellipsis(shown: str, actual: str, same: bool) -> None:
    assert matches(shown, actual) is same


@pytest.mark.parametrize(
    ("shown", "actual", "same"),
    [
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "…": "…"}, {"a": 1, "b": 2}, True),
        ({"a": 1, "…": "…"}, {"a": 1}, True),
        ({"a": 1, "…": "…"}, {"b": 2}, False),
        ({"a": "…"}, {"a": [1]}, True),
        ({"a": "…"}, {}, False),
        ({"id": "aev_…"}, {"id": "aev_12"}, True),
        ({"id": "aev_…"}, {"id": "trn_12"}, False),
        ({"id": "aev_…"}, {"id": 12}, False),
        ([1, 2], [1, 2], True),
        ([1], [1, 2], False),
        ([1, 2], [1], False),
        ([1, "…"], [1, 2, 3], True),
        ([1, "…"], [1], True),
        ([1, "…"], [2, 3], False),
        (["…", 2], [1, 2], True),
        (True, 1, False),
        (1, 1.0, False),
        (None, None, True),
        (None, False, False),
    ],
)
def test_json_is_compared_by_its_values(shown: object, actual: object, same: bool) -> None:
    assert alike(shown, actual) is same


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ls\necho a\n", [Step("script", "ls\necho a\n")]),
        ("ls", [Step("script", "ls")]),
        ("# nothing\n\n", []),
        ("make run     # words\nmake test\n", [Step("server")]),
        ("make test\nls\n", [Step("script", "ls\n")]),
        (
            "export A=1\nsessile serve --data x   # words\n",
            [Step("script", "export A=1\n"), Step("server", "sessile serve --data x   # words")],
        ),
        ("A=1 sessile serve \\\n  --data x &\n", [Step("server", "A=1 sessile serve \\\n  --data x ")]),
        ("sessile serve --help\n", [Step("script", "sessile serve --help\n")]),
        ("echo a \\\n  make test\n", [Step("script", "echo a \\\n  make test\n")]),
        ("cat <<'END'\nit's\nEND\n", [Step("script", "cat <<'END'\nit's\nEND\n")]),
        ("# sessile serve\nls # make run\n", [Step("script", "# sessile serve\nls # make run\n")]),
    ],
)
def test_a_shell_block_is_scripts_and_servers(text: str, expected: list[Step]) -> None:
    assert steps(text) == expected


@pytest.mark.parametrize("text", ["sessile serve\nls\n", "sessile serve &\nls\n", "make run\nsessile serve\n"])
def test_nothing_comes_after_a_server_in_its_block(text: str) -> None:
    with pytest.raises(DocumentFailed, match="no command can come after"):
        steps(text)
