"""The folder of files: whole or not at all, never removed while somebody needs them."""

import asyncio
import errno
import gc
import hashlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from sessile.rows import FileName, HeldFile
from sessile.stores import files as module
from sessile.stores.files import SAFE_SECONDS, LocalFiles
from sessile.testing.clock import FakeClock
from sessile.wire.errors import StorageUnavailable

TENANT = 7


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def files(tmp_path: Path, clock: FakeClock) -> LocalFiles:
    return LocalFiles(tmp_path / "files", clock)


async def nobody(names: Sequence[FileName]) -> Collection[FileName]:
    return ()


async def keep(files: LocalFiles, content: bytes, tenant: int = TENANT) -> HeldFile:
    upload = files.create(tenant)
    for start in range(0, len(content), 2):
        await upload.write(content[start : start + 2])
    held = await upload.keep()
    await upload.discard()
    assert (upload.size, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    return held


def everything(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "files").rglob("*") if path.is_file()]


def age(path: Path, clock: FakeClock, seconds: float) -> None:
    moment = clock.now() / 1_000_000 - seconds
    os.utime(path, (moment, moment))


async def test_a_file_stands_under_its_hash_and_is_read_in_part(files: LocalFiles, tmp_path: Path) -> None:
    held = await keep(files, b"abcdef")
    digest = hashlib.sha256(b"abcdef").hexdigest()
    assert held.name == FileName(TENANT, digest)
    assert everything(tmp_path) == [tmp_path / "files" / str(TENANT) / digest[:2] / digest]
    assert await files.read(held.name, 0, 100) == b"abcdef"
    assert await files.read(held.name, 2, 3) == b"cde"
    assert await files.read(held.name, 6, 3) == b""
    with pytest.raises(StorageUnavailable):
        await files.read(FileName(TENANT + 1, digest), 0, 1)
    assert (await keep(files, b"")).name.sha256 == hashlib.sha256(b"").hexdigest()


async def test_what_is_discarded_leaves_nothing(files: LocalFiles, tmp_path: Path) -> None:
    upload = files.create(TENANT)
    await upload.write(b"abc")
    assert len(everything(tmp_path)) == 1
    await upload.discard()
    await upload.discard()
    await files.create(TENANT).discard()
    assert everything(tmp_path) == []


async def test_tenants_share_nothing(files: LocalFiles, tmp_path: Path) -> None:
    first, second = await keep(files, b"same"), await keep(files, b"same", TENANT + 1)
    files.release(first)
    assert len(everything(tmp_path)) == 2
    assert await files.remove({first.name}, nobody) == set()
    assert await files.read(second.name, 0, 9) == b"same"


async def test_what_is_named_or_held_stays(files: LocalFiles, tmp_path: Path) -> None:
    held, again = await keep(files, b"abc"), files.hold(FileName(TENANT, hashlib.sha256(b"abc").hexdigest()))
    name = held.name

    async def all_of_them(names: Sequence[FileName]) -> Collection[FileName]:
        return names

    assert await files.remove({name}, nobody) == {name}
    files.release(held)
    files.release(held)
    assert await files.remove({name}, nobody) == {name}
    files.release(again)
    assert await files.remove({name}, all_of_them) == set()
    assert len(everything(tmp_path)) == 1
    assert await files.remove({name}, nobody) == set()
    assert await files.remove({name}, nobody) == set()
    assert everything(tmp_path) == []


async def test_a_hold_that_is_forgotten_is_over(files: LocalFiles, tmp_path: Path) -> None:
    name = (await keep(files, b"abc")).name
    async with asyncio.timeout(30):
        while await files.remove({name}, nobody):  # until the thread that made it has let go, too
            gc.collect()
            await asyncio.sleep(0.01)
    assert everything(tmp_path) == []


async def test_an_upload_of_the_same_bytes_wins_over_their_removal(files: LocalFiles) -> None:
    files.release(await keep(files, b"abc"))
    name = FileName(TENANT, hashlib.sha256(b"abc").hexdigest())

    async def meanwhile(names: Sequence[FileName]) -> Collection[FileName]:
        """Nobody names it, says the store; then it comes again, is named by a commit, and let go of."""
        files.release(await keep(files, b"abc"))
        return ()

    assert await files.remove({name}, meanwhile) == set()
    assert await files.read(name, 0, 9) == b"abc"


async def test_uploads_of_the_same_bytes_at_once(files: LocalFiles, tmp_path: Path) -> None:
    content = os.urandom(10_000)
    held = await asyncio.gather(*(keep(files, content) for _ in range(20)))
    assert len({one.name for one in held}) == 1
    assert len(everything(tmp_path)) == 1
    assert await files.read(held[0].name, 0, 20_000) == content


async def test_the_sweeper_finds_what_a_crash_has_left(files: LocalFiles, tmp_path: Path, clock: FakeClock) -> None:
    orphan, fresh, wanted = [(await keep(files, content)).name for content in (b"orphan", b"fresh", b"wanted")]
    cut_off = files.create(TENANT)
    await cut_off.write(b"half")
    later = LocalFiles(tmp_path / "files", clock)  # as a process that starts after the crash
    for path in everything(tmp_path):
        age(path, clock, 1 if path.name == fresh.sha256 else SAFE_SECONDS + 1)
    (tmp_path / "files" / "README").write_text("not ours")
    age(tmp_path / "files" / "README", clock, SAFE_SECONDS + 1)
    asked: list[FileName] = []

    async def named(names: Sequence[FileName]) -> Collection[FileName]:
        asked.extend(names)
        return {wanted}

    assert await later.sweep(named) == 2
    assert set(asked) == {orphan, wanted}
    assert {path.name for path in everything(tmp_path)} == {fresh.sha256, wanted.sha256, "README"}
    await cut_off.discard()


async def test_the_sweeper_leaves_what_is_on_its_way(files: LocalFiles, tmp_path: Path, clock: FakeClock) -> None:
    upload = files.create(TENANT)
    await upload.write(b"slow")
    held = await keep(files, b"held")
    for path in everything(tmp_path):
        age(path, clock, SAFE_SECONDS + 1)
    assert await files.sweep(nobody) == 0
    assert await files.read(held.name, 0, 9) == b"held"
    assert (await upload.keep()).name.sha256 == hashlib.sha256(b"slow").hexdigest()


async def test_nothing_to_sweep(tmp_path: Path, clock: FakeClock) -> None:
    assert await LocalFiles(tmp_path / "none", clock).sweep(nobody) == 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
async def test_a_disk_that_fails_leaves_nothing(
    files: LocalFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fails(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    upload = files.create(TENANT)
    await upload.write(b"abc")
    with monkeypatch.context() as broken:
        broken.setattr(module.os, step, fails)
        with pytest.raises(StorageUnavailable):
            await upload.keep()
    await upload.discard()
    assert everything(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk that is always full here")
async def test_a_full_disk_is_noticed_while_writing(files: LocalFiles, tmp_path: Path) -> None:
    upload = files.create(TENANT)
    files._arriving.mkdir(parents=True)
    os.symlink("/dev/full", upload._path)
    upload._file = upload._path.open("wb")
    with pytest.raises(StorageUnavailable):
        await upload.write(b"x" * 100_000)
    await upload.discard()
    assert everything(tmp_path) == []


async def test_a_slow_disk_holds_up_no_event_loop(files: LocalFiles) -> None:
    with files._renaming:  # as a thread does that waits for the disk
        held = files.hold(FileName(TENANT, "a" * 64))
        files.release(held)


async def test_a_cancelled_upload_is_finished_or_not_begun(files: LocalFiles, tmp_path: Path) -> None:
    upload = files.create(TENANT)
    await upload.write(b"abc")
    task = asyncio.create_task(upload.keep())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await upload.discard()
    assert [path.parent.parent.name for path in everything(tmp_path)] == [str(TENANT)]


async def test_of_a_shared_folder_nothing_young_is_removed(tmp_path: Path, clock: FakeClock) -> None:
    """Another process may have kept the same bytes just now, and be about to name them."""
    here, there = (LocalFiles(tmp_path / "files", clock, shared=True) for _ in range(2))
    here.release(await keep(here, b"abc"))
    held = await keep(there, b"abc")
    (path,) = everything(tmp_path)
    age(path, clock, SAFE_SECONDS - 1)
    gc.collect()
    assert await here.remove([held.name], nobody) == set()
    assert await here.sweep(nobody) == 0
    assert await there.read(held.name, 0, 3) == b"abc"
    age(path, clock, SAFE_SECONDS + 1)
    await keep(there, b"abc")
    assert await here.sweep(nobody) == 0, "what is kept again is young again"
    age(path, clock, SAFE_SECONDS + 1)
    assert await here.sweep(nobody) == 1
    assert everything(tmp_path) == []
