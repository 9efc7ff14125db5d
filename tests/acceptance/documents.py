"""Runs the code blocks of a Markdown document in their order, in one fresh folder, as a newcomer would.

What an author can rely on:

- A block has a language: `sh`, `python`, `toml`, `json`, `text` or `console`. Any other, none, an indented block and a
  block in HTML are refused, so nothing that looks like code stays unrun.
- ```sh is run by `bash -euo pipefail` and must end with status 0. What it exports, and the folder it leads to, hold for
  the blocks after it. `SESSILE_URL` and `SESSILE_API_KEY` (the owner's) are set, the newcomer's own keys are not.
- ```python is a script of its own, run in the same folder with the same environment.
- A line with nothing but **`path/to/file`** right before a block makes the block that file. A Python file is compiled,
  a JSON file parsed; toml is always checked as a configuration of a server, with or without a file.
- ```text and ```console are the output of the block right before, standard output and errors as a terminal shows them;
  `…` stands for any text. So is ```json that is no file, compared as JSON: the value `"…"` stands for anything, also
  inside a longer string, the entry `"…": "…"` for more entries, and a last item `"…"` for more items.
- `sessile serve …` is started in the background on a free port, and must be the last command of its block. So is
  `make run`: what the Makefile starts, in the environment that runs the tests. There is one server at a time, and the
  next one replaces it. A document that starts none finds that of `make run` when it begins.
- `http://127.0.0.1:8700` (or the port that a `sessile serve --port` names) leads to that server, and stands for it in
  what it prints. Its owner key is the one that it printed.
- A line that is a command of `RUN_ELSEWHERE` is left out here.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from markdown_it import MarkdownIt

from sessile.config import ConfigError, load

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 300.0
"""The bound of every wait: it is reached only when a test fails."""
RUN_ELSEWHERE = {
    "make test": (".ci/run", "make test"),
    "make lint": (".ci/run", "make lint"),
}
"""Commands that documents show and that are not run for them: each with the file that does, and the text in it."""

_FILE = re.compile(r"\*\*`([^`]+)`\*\*")
_FENCE = re.compile(r"^[ >]*(?:```|~~~)", re.MULTILINE)
_SERVE = re.compile(r"(\S*\bsessile) serve\b(?!.*--help)")
_PORT = re.compile(r"\s--port[ =](\d+)")
_READY = re.compile(r"ready at .*?http://127\.0\.0\.1:(\d+)")
_SECRET = re.compile(r"sk-sessile-[0-9A-Za-z_-]+")
_DEFAULT_PORT = "8700"
_ANYTHING = "…"
_SAMPLE = "make run"
_SETTLE_SECONDS = 10.0
_LINE = re.compile(r"(?:[^\n]*\\\n)*[^\n]*\n|[^\n]+\Z")
"""A line of a script, together with those that continue it."""


class DocumentFailed(AssertionError):
    """A block does not do what its document says; the text says which, where and how."""


@dataclass(frozen=True)
class Block:
    """A code block: its language, its text, the line where it begins (from 1), and the file that it is, if any."""

    language: str
    text: str
    line: int
    file: str | None = None


def parse(markdown: str) -> list[Block]:
    """The code blocks of a document. Raises DocumentFailed for code that could not be run as a block."""
    blocks: list[Block] = []
    before = ""
    for token in MarkdownIt().parse(markdown):
        line = token.map[0] + 1 if token.map else 0
        if token.type == "code_block" or (token.type == "html_block" and "<pre" in token.content):
            raise DocumentFailed(f"line {line}: code without a fence")
        if token.type == "fence":
            name = _FILE.fullmatch(before)
            blocks.append(Block(token.info.strip(), token.content, line, name[1] if name else None))
        if token.type in ("inline", "fence"):
            before = token.content.rpartition("\n")[2].strip() if token.type == "inline" else ""
    if len(_FENCE.findall(markdown)) != 2 * len(blocks):
        raise DocumentFailed("a fence is not closed, or stands where Markdown sees no code block")
    return blocks


def matches(shown: str, actual: str) -> bool:
    """Whether a text is what a document shows; `…` is any text, and spaces at the ends of lines do not count."""
    parts = [re.escape(part) for part in _tidy(shown).split(_ANYTHING)]
    return re.fullmatch(".*".join(parts), _tidy(actual), re.DOTALL) is not None


def alike(shown: Any, actual: Any) -> bool:
    """Whether a JSON value is what a document shows."""
    if isinstance(shown, str) and _ANYTHING in shown:
        return shown == _ANYTHING or (isinstance(actual, str) and matches(shown, actual))
    if isinstance(shown, dict) and isinstance(actual, dict):
        told = shown.keys() - {_ANYTHING}
        complete = told == actual.keys() or (told != shown.keys() and told <= actual.keys())
        return complete and all(alike(shown[name], actual[name]) for name in told)
    if isinstance(shown, list) and isinstance(actual, list):
        told_items = shown[:-1] if shown[-1:] == [_ANYTHING] else shown
        complete = len(told_items) == len(actual) or (len(told_items) < len(shown) and len(told_items) <= len(actual))
        return complete and all(map(alike, told_items, actual))
    return type(shown) is type(actual) and bool(shown == actual)


class Server:
    """A command that runs a server, in the background, from where it says that it is ready until it is stopped."""

    def __init__(self, command: str, folder: Path, env: Mapping[str, str], log: Path) -> None:
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        script = _SERVE.sub(r"exec \1 serve --port 0", _PORT.sub("", command))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=folder,
                env={**env, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
        asked = _PORT.search(command)
        self.shown_port = asked[1] if asked else _DEFAULT_PORT
        self.port = ""

    def wait(self) -> None:
        """Wait until it listens. Raises DocumentFailed when it does not."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := _READY.search(self.printed())) is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DocumentFailed(f"the server did not start:\n{self.printed()}{self._logged()}")
            time.sleep(0.02)
        self.port = found[1]

    def printed(self) -> str:
        """What it printed so far."""
        return self._out.read_text(encoding="utf-8")

    def stop(self) -> None:
        """Stop it as a supervisor would. Raises DocumentFailed when it fails, or when its log has a traceback."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(WAIT_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
        lines = [line for line in self._logged().splitlines() if '"event":"tool_failed"' not in line]
        defects = [line for line in lines if '"exception"' in line or "Traceback" in line]
        if status != 0 or defects:
            raise DocumentFailed(f"the server ended with status {status}:\n" + "\n".join(defects or lines))

    def _logged(self) -> str:
        return self._err.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Step:
    """A part of a shell block: a script, or the start of a server. A server without a command is that of `make run`."""

    kind: Literal["script", "server"]
    command: str = ""


def steps(text: str) -> list[Step]:
    """What to do for a shell block. Raises DocumentFailed for commands that come after the start of a server."""
    found: list[Step] = []
    waiting: list[str] = []

    def flush() -> None:
        if any(map(_words, waiting)):
            found.append(Step("script", "".join(waiting)))
        waiting.clear()

    for line in _LINE.findall(text):
        command = " ".join(_words(line))
        if command == _SAMPLE or _SERVE.search(" ".join(_words(line))):
            flush()
            found.append(Step("server", "" if command == _SAMPLE else line.rstrip().removesuffix("&")))
        elif command not in RUN_ELSEWHERE:
            waiting.append(line)
    flush()
    if any(step.kind == "server" for step in found[:-1]):
        raise DocumentFailed("a server runs until it is stopped: no command can come after it in its block")
    return found


class Reader:
    """A newcomer who works through one document, as a context manager. All that they do happens in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._aside = folder / "aside"
        self._aside.mkdir(parents=True)
        (self._aside / ".curlrc").write_text("no-progress-meter\n")
        self._home = self._folder = folder / "work"
        self._home.mkdir()
        self._env = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "HOME": str(self._aside),
            "LANG": "C.UTF-8",
            "COLUMNS": "100",
        }
        self._server: Server | None = None
        self._output: str | Server | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._stop()
        else:
            with suppress(DocumentFailed):
                self._stop()

    def read(self, blocks: list[Block]) -> None:
        """Do what every block says. Raises DocumentFailed at the first one that is not true."""
        kinds = {kind for block in blocks for kind in _kinds(block)}
        if kinds == {"script"}:
            self._serve("")
        for block in blocks:
            try:
                self._do(block)
            except DocumentFailed as failure:
                raise DocumentFailed(f"line {block.line}: {failure}") from None

    def _do(self, block: Block) -> None:
        output, self._output = self._output, None
        match block:
            case Block(language="sh", file=None):
                for step in steps(block.text):
                    if step.kind == "server":
                        self._serve(step.command)
                    else:
                        self._bash(step.command)
            case Block(language="python", file=None):
                script = self._folder / f"line_{block.line}.py"
                script.write_text(self._here(block.text), encoding="utf-8")
                self._run(["python", str(script)])
            case Block(language="text" | "console" | "json", file=None):
                self._compare(block, output)
            case Block(language="sh" | "python" | "toml" | "json" | "text"):
                self._keep(block)
            case _:
                raise DocumentFailed("a language that no block can have; the first lines of documents.py list them")

    def _keep(self, block: Block) -> None:
        """Write a file, and check that it is what it seems to be."""
        path = (self._folder / (block.file or f"line_{block.line}.{block.language}")).resolve()
        if not path.is_relative_to(self._home.resolve()):
            raise DocumentFailed(f"{block.file} is not in the folder of the document")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._here(block.text), encoding="utf-8")
        try:
            if block.language == "toml":
                load(str(path))
            elif block.language == "json":
                json.loads(block.text)
            elif block.language == "python":
                compile(block.text, str(path), "exec")
        except (ConfigError, ValueError, SyntaxError) as error:
            raise DocumentFailed(str(error)) from None

    def _compare(self, block: Block, output: str | Server | None) -> None:
        if output is None:
            raise DocumentFailed("this is shown as output, and nothing was run right before it")
        if not block.text.replace(_ANYTHING, "").strip():
            raise DocumentFailed("output that shows nothing cannot be wrong")
        deadline = time.monotonic() + (_SETTLE_SECONDS if isinstance(output, Server) else 0)
        while not _shows(block, text := self._there(output if isinstance(output, str) else output.printed())):
            if time.monotonic() > deadline:
                raise DocumentFailed(f"this was printed instead:\n{text}")
            time.sleep(0.02)

    def _bash(self, script: str) -> None:
        """Run a script, and keep what it exports and the folder where it ends."""
        exported = self._aside / "exported"
        self._run(["bash", "-euo", "pipefail", "-c", f"{self._here(script)}\nenv -0 > {shlex.quote(str(exported))}"])
        pairs = [entry.partition("=") for entry in exported.read_text(encoding="utf-8").split("\0") if entry]
        self._env = {name: value for name, _, value in pairs if name not in ("_", "SHLVL", "OLDPWD")}
        self._folder = Path(self._env["PWD"])

    def _run(self, command: list[str]) -> None:
        """Run a command to its end, with whatever it leaves running, and keep what it printed."""
        printed = self._aside / "printed"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(WAIT_SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._output = printed.read_text(encoding="utf-8", errors="replace")
        if status != 0:
            how = "did not end" if status is None else f"ended with status {status}"
            raise DocumentFailed(f"it {how}:\n{self._output}")

    def _serve(self, command: str) -> None:
        """Start a server in the place of the one before."""
        self._stop()
        log = self._aside / f"server_{time.monotonic_ns()}"
        if command:
            self._server = Server(command, self._folder, self._env, log)
        else:
            self._server = Server(sample_command(self._home / "data"), ROOT, self._env, log)
        self._server.wait()
        self._output = self._server
        self._env["SESSILE_URL"] = f"http://127.0.0.1:{self._server.port}"
        if secret := _SECRET.search(self._server.printed()):
            self._env["SESSILE_API_KEY"] = secret[0]

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _here(self, text: str) -> str:
        """What a document says, with the port that the server really has."""
        if self._server is None:
            return text
        return re.sub(rf"\b(127\.0\.0\.1|localhost):{self._server.shown_port}\b", rf"\1:{self._server.port}", text)

    def _there(self, text: str) -> str:
        """What was printed, with the port that the document names."""
        if self._server is None:
            return text
        return re.sub(rf"\b(127\.0\.0\.1|localhost):{self._server.port}\b", rf"\1:{self._server.shown_port}", text)


def run(document: Path, folder: Path) -> None:
    """Work through a document in a new folder. Raises DocumentFailed with the place of what is not true."""
    try:
        with Reader(folder) as reader:
            reader.read(parse(document.read_text(encoding="utf-8")))
    except DocumentFailed as failure:
        raise DocumentFailed(f"{document}: {failure}") from None


def sample_command(data: Path) -> str:
    """What `make run` does when everything is installed, on this data folder and in the environment of the tests."""
    variables = [f"VENV={Path(sys.executable).parent.parent}", f"DATA={data}"]
    # A make that runs these tests tells its children so, and they would say which folder they work in.
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    printed = subprocess.run(
        ["make", "--dry-run", "run", *variables],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    commands: list[str] = [line.strip() for line in _LINE.findall(printed.stdout) if line.strip()]
    return commands[-1]


def _kinds(block: Block) -> set[str]:
    """What a block does: runs scripts, starts servers, or nothing of these."""
    if block.file is not None or block.language not in ("sh", "python"):
        return set()
    return {"script"} if block.language == "python" else {step.kind for step in steps(block.text)}


def _shows(block: Block, text: str) -> bool:
    """Whether a block of output shows this text."""
    if block.language != "json":
        return matches(block.text, text)
    try:
        shown = json.loads(block.text)
    except ValueError as error:
        raise DocumentFailed(f"no JSON is shown: {error}") from None
    try:
        return alike(shown, json.loads(text))
    except ValueError:
        return False


def _words(line: str) -> list[str]:
    """The words of a command, without comments; those of a line that is no whole command are taken as they stand."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


def _tidy(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
