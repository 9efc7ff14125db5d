"""The product as the benchmark runs it: its configuration, its agents, and its processes. Authentication is on."""

import secrets
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from benchmarks.processes import NotMeasured, Server, free_port

MODELS = ("instant", "hundred", "paced", "steady")
FLAT = "flat"
"""An agent whose model reads about twenty events, so that a turn reads as much in a short session as in a long one."""
FLAT_CONTEXT_WINDOW = 1024

_TABLE = '[models.{name}]\nprovider = "bench"\nmodel = "{model}"\n'
_INSTRUCTION = {"type": "inline", "name": "tone", "template": "Answer in one short sentence."}


_UNLIMITED = "[limits]\nrequests_per_second = 0\n"
"""All load of a benchmark comes with one key."""


class Product:
    """A data folder, and servers on it: one after another, or several on a database of PostgreSQL."""

    def __init__(self, folder: Path, database: str | None = None) -> None:
        folder.mkdir()
        self._database = {} if database is None else {"SESSILE_DATABASE": database}
        self.folder = folder
        self.data = folder / "data"
        self._key = f"bench_{secrets.token_hex(24)}"
        self.headers = {"x-api-key": self._key}

    def start(self) -> Server:
        """The product with the models of the benchmark."""
        port = free_port()
        tables = [_TABLE.format(name=name, model=name) for name in MODELS]
        tables.append(_TABLE.format(name=FLAT, model="instant") + f"context_window = {FLAT_CONTEXT_WINDOW}\n")
        config = self._config(f'port = {port}\ndata = "{self.data.as_posix()}"\nlog_level = "warning"\n', tables)
        return Server(["-m", "benchmarks.server", str(config)], port, self.folder, self._environment())

    def start_shipped(self) -> Server:
        """The product as its users start it, by its own command."""
        port = free_port()
        config = self._config("", [])
        arguments = ["-m", "sessile", "serve", "--host", "127.0.0.1", "--port", str(port)]
        arguments += ["--data", str(self.data), "--config", str(config)]
        return Server(arguments, port, self.folder, self._environment())

    def create_agents(self, port: int) -> None:
        """One agent for each model, under the model's name."""
        for name in (*MODELS, FLAT):
            step = {"name": "first_step", "instructions": [_INSTRUCTION]}
            agent = {"key": name, "name": name, "model": {"name": name}, "first_step": step}
            self.post(port, "/v2/agents", agent | {"compaction": {"enabled": False}})

    def post(self, port: int, path: str, body: object, extra: dict[str, str] | None = None) -> bytes:
        """One request outside every clock. Raises NotMeasured for anything but 201."""
        headers = self.headers | {"content-type": "application/json"} | (extra or {})
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", msgspec.json.encode(body), headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                answer: bytes = response.read()
        except urllib.error.HTTPError as error:
            raise NotMeasured(f"POST {path}: {error.code} {error.read(500).decode(errors='replace')}") from None
        return answer

    def database(self) -> Path:
        """The database file in the data folder."""
        for path in sorted(self.data.rglob("*")):
            if path.is_file() and path.open("rb").read(15) == b"SQLite format 3":
                return path
        raise NotMeasured(f"no database in the data folder: {[path.name for path in self.data.rglob('*')]}")

    def _config(self, head: str, tables: list[str]) -> Path:
        path = self.folder / "sessile.toml"
        path.write_text("\n".join([head, *tables, _UNLIMITED]))
        return path

    def _environment(self) -> dict[str, str]:
        return {"SESSILE_OWNER_KEY": self._key, **self._database}
