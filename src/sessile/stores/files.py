"""The bytes of files in a local folder: the `Files` port.

A file stands under `TENANT/ab/abcd…`, its SHA-256. It is written under another name, made durable, and only then
renamed: whatever stands under a hash is whole. Nothing here knows what a file is for; callers say what is still wanted.
"""

import asyncio
import hashlib
import os
import secrets
import stat
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar
from weakref import WeakSet

import structlog

from sessile.ports import Clock, Named
from sessile.rows import FileName, HeldFile
from sessile.wire.errors import StorageUnavailable

T = TypeVar("T")

SAFE_SECONDS = 60 * 60
"""What nobody names is left alone until it is this old: it is on its way to be named."""
_SLICE = 200
_HEX = frozenset("0123456789abcdef")
_log = structlog.get_logger("sessile.files")


class LocalFiles:
    """Files in a folder of this process alone, which owns the database beside it, or one that several processes share.

    What other processes hold, this one cannot know. So in a folder that is `shared` nothing young is removed: somebody
    may be about to name it. What is not removed for that is left to the next sweep that finds it old.
    """

    def __init__(self, folder: Path, clock: Clock, *, shared: bool = False) -> None:
        self._folder = folder
        self._shared = shared
        self._arriving = folder / "arriving"
        self._clock = clock
        self._renaming = threading.Lock()
        """Held while a name is given to a file or taken from it. Only threads wait for it, never the event loop."""
        self._knowing = threading.Lock()
        """Held while what is known of files changes: never for long."""
        self._held: dict[FileName, WeakSet[HeldFile]] = {}
        self._kept: set[FileName] = set()
        """Files that were kept since the removal that runs began."""
        self._anchored: set[Path] = set()
        """Folders whose own names are durable."""
        self._removing = asyncio.Lock()
        self._open: set[Path] = set()

    def create(self, tenant_id: int) -> "LocalUpload":
        """Start a file."""
        return LocalUpload(self, tenant_id, self._arriving / secrets.token_hex(16))

    async def read(self, name: FileName, start: int, length: int) -> bytes:
        """Bytes from a place on."""
        return await _in_thread(_read, self._path(name), start, length)

    def hold(self, name: FileName) -> HeldFile:
        """Keep a file from being removed."""
        held = HeldFile(name)
        with self._knowing:
            self._held.setdefault(name, WeakSet()).add(held)
        return held

    def release(self, held: HeldFile) -> None:
        """Hold a file no longer."""
        with self._knowing:
            self._held.get(held.name, WeakSet()).discard(held)

    async def remove(self, names: Collection[FileName], named: Named) -> set[FileName]:
        """Remove files that are not named, and return those that are held."""
        async with self._removing:
            self._kept.clear()
            wanted = await named(list(names))
            return await _in_thread(self._remove, [name for name in names if name not in wanted])

    async def sweep(self, named: Named) -> int:
        """Remove old files that nobody names, and what uploads have left."""
        removed = await _in_thread(self._remove_arriving)
        found = self._old_files()
        while slice := await _in_thread(lambda: list(islice(found, _SLICE))):
            async with self._removing:
                self._kept.clear()
                wanted = await named(slice)
                stray = [name for name in slice if name not in wanted]
                removed += len(stray) - len(await _in_thread(self._remove, stray))
        return removed

    def keep(self, name: FileName, source: Path) -> HeldFile:
        """Give a file that is durable its name. Runs on a thread. A file of this name is the same, and is replaced."""
        target = self._path(name)
        held = self.hold(name)
        with self._renaming:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.replace(source, target)
            self._kept.add(name)
        _sync_folder(target.parent)
        self._anchor(target.parent)
        return held

    def begin(self, path: Path) -> IO[bytes]:
        """Open a new file for writing. Runs on a thread."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open.add(path)
        return path.open("xb")

    def end(self, path: Path) -> None:
        """A file is written no more; what is left of it goes. Runs on a thread."""
        path.unlink(missing_ok=True)
        self._open.discard(path)

    def _anchor(self, folder: Path) -> None:
        """Make the names of a folder and of those above it durable, once; another thread may have just made them."""
        while folder != self._folder.parent and folder not in self._anchored:
            _sync_folder(folder.parent)
            self._anchored.add(folder)
            folder = folder.parent

    def _remove(self, names: Collection[FileName]) -> set[FileName]:
        left = set()
        for name in names:
            with self._renaming:
                if self._is_held(name):
                    left.add(name)
                elif name not in self._kept and (not self._shared or self._is_old(self._path(name))):
                    self._path(name).unlink(missing_ok=True)
        return left

    def _is_held(self, name: FileName) -> bool:
        with self._knowing:
            if self._held.get(name):
                return True
            self._held.pop(name, None)
            return False

    def _remove_arriving(self) -> int:
        removed = 0
        for path in _entries(self._arriving):
            if path not in self._open and self._is_old(path):
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _old_files(self) -> Iterator[FileName]:
        for tenant in _entries(self._folder):
            for fan in _entries(tenant) if tenant.name.isdigit() else ():
                for path in _entries(fan):
                    if len(path.name) == 64 and _HEX.issuperset(path.name) and self._is_old(path):
                        yield FileName(int(tenant.name), path.name)

    def _is_old(self, path: Path) -> bool:
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_mtime < self._clock.now() / 1_000_000 - SAFE_SECONDS

    def _path(self, name: FileName) -> Path:
        return self._folder / str(name.tenant_id) / name.sha256[:2] / name.sha256


class LocalUpload:
    """One file on its way in."""

    def __init__(self, files: LocalFiles, tenant_id: int, path: Path) -> None:
        self.size = 0
        self._files = files
        self._tenant_id = tenant_id
        self._path = path
        self._file: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._over = False

    @property
    def sha256(self) -> str:
        """The SHA-256 in hex of the bytes so far."""
        return self._digest.hexdigest()

    async def write(self, data: bytes) -> None:
        """Go on."""
        self.size += len(data)
        await _in_thread(self._write, data)

    async def keep(self) -> HeldFile:
        """Make it durable under its hash."""
        return await _in_thread(self._keep)

    async def discard(self) -> None:
        """Forget what is not kept."""
        if not self._over:
            await _in_thread(self._end)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._file = self._files.begin(self._path)
        return self._file

    def _write(self, data: bytes) -> None:
        self._opened().write(data)
        self._digest.update(data)

    def _keep(self) -> HeldFile:
        file = self._opened()
        file.flush()
        os.fsync(file.fileno())
        file.close()
        held = self._files.keep(FileName(self._tenant_id, self.sha256), self._path)
        self._end()
        return held

    def _end(self) -> None:
        self._over = True
        if self._file is not None:
            with suppress(OSError):  # what a full disk has not taken fails again here
                self._file.close()
            self._files.end(self._path)


def _read(path: Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _entries(folder: Path) -> list[Path]:
    """What stands in a folder, if it is there."""
    try:
        return [Path(entry) for entry in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _in_thread(work: Callable[..., T], *arguments: Any) -> T:
    """Work on the disk; what fails there is StorageUnavailable. Cancelling waits for it: nothing is left half done."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
    except OSError as error:
        _log.error("files_failed", error=str(error))
        raise StorageUnavailable from None
