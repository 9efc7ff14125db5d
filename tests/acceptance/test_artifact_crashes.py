"""Files and a server that is killed, whose disk fails, or that gets a very large one."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from acceptance.stage import eventually, refused
from sessile.testing.fsync_shim import FsyncShim
from sessile.testing.server import ServerProcess
from sessile.wire import limits

pytestmark = pytest.mark.acceptance

PATH = "/v2/agents/helper/sessions/first"
DELAY = 2.0
MIB = 1024 * 1024


class Place:
    """A server whose disk can be switched, with one session."""

    def __init__(self, folder: Path) -> None:
        self.shim = FsyncShim(folder, folder / "data")
        self.server = ServerProcess(folder, env=self.shim.env)
        self.folder = folder / "data" / "sessile.db.files"

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, headers=self.server.headers, timeout=60)

    def stored(self) -> list[Path]:
        """Whole files."""
        return list(self.folder.glob("[0-9]*/??/*"))

    def arriving(self) -> list[Path]:
        """Files on their way."""
        return list(self.folder.glob("arriving/*"))


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    with place.server:
        async with place.client() as client:
            agent = {"key": "helper", "name": "Helper", "model": {"name": "demo"}}
            assert (await client.post("/v2/agents", json=agent)).status_code == 201
            assert (await client.post("/v2/agents/helper/sessions", json={"key": "first"})).status_code == 201
        yield place


def old(path: Path) -> None:
    """As if it had been there for two hours."""
    os.utime(path, (time.time() - 7200,) * 2)


async def test_a_kill_between_the_bytes_and_their_commit(place: Place) -> None:
    content = b"never named"
    place.shim.delay(DELAY)
    async with place.client() as client:
        posting = asyncio.create_task(
            client.post(f"{PATH}/events", files={"files": ("a.txt", content)}, data={"message": "Look."})
        )

        async def is_there() -> bool:
            return bool(place.stored())

        await eventually(is_there)
        place.server.kill()
        with pytest.raises(httpx.TransportError):
            await posting
    (orphan,) = place.stored()
    assert orphan.name == hashlib.sha256(content).hexdigest()
    assert orphan.read_bytes() == content
    old(orphan)
    place.shim.work()
    place.server.start()
    async with place.client() as client:
        assert (await client.get(f"{PATH}/artifacts")).json()["artifacts"] == []
        assert (await client.get(f"{PATH}/events", params={"records": True})).json()["events"] == []

        async def is_gone() -> bool:
            return not place.stored()

        await eventually(is_gone)
        again = await client.post(f"{PATH}/events", files={"files": ("a.txt", content)})
        assert again.status_code == 201


async def test_a_kill_while_bytes_come(place: Place) -> None:
    go_on = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * MIB
        await go_on.wait()

    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with place.client() as client:
        posting = asyncio.create_task(client.post(f"{PATH}/events", content=body(), headers=headers))

        async def has_begun() -> bool:
            return bool(place.arriving())

        await eventually(has_begun)
        place.server.kill()
        go_on.set()
        with pytest.raises(httpx.TransportError):
            await posting
    for path in place.arriving():
        old(path)
    place.server.start()

    async def is_gone() -> bool:
        return not place.arriving()

    await eventually(is_gone)


async def test_a_client_that_goes_away_leaves_nothing(place: Place) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n' + b"x" * MIB
        await asyncio.Event().wait()

    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with place.client() as client:
        posting = asyncio.create_task(client.post(f"{PATH}/events", content=body(), headers=headers))

        async def has_begun() -> bool:
            return bool(place.arriving())

        await eventually(has_begun)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting

        async def is_gone() -> bool:
            return not place.arriving()

        await eventually(is_gone)
        assert (await client.get(f"{PATH}/events")).json()["events"] == []


async def test_a_disk_that_fails(place: Place) -> None:
    async with place.client() as client:
        for error in ("ENOSPC", "EIO"):
            place.shim.fail(error)
            answer = await client.post(f"{PATH}/events", files={"files": ("a.txt", b"abc")})
            refused(answer, 503, "storage_unavailable")
            assert place.stored() == place.arriving() == []
        place.shim.work()
        answer = await client.post(f"{PATH}/events", files={"files": ("a.txt", b"abc")})
        assert answer.status_code == 201


async def test_many_uploads_of_the_same_bytes(place: Place) -> None:
    content = os.urandom(300_000)
    async with place.client() as client:
        keys = [f"s{number}" for number in range(8)]
        for key in keys:
            await client.post("/v2/agents/helper/sessions", json={"key": key})
        paths = [f"/v2/agents/helper/sessions/{key}" for key in keys]
        answers = await asyncio.gather(
            *(client.post(f"{path}/events", files={"files": ("a", content)}) for path in paths)
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len(place.stored()) == 1
        for path in paths[1:]:
            assert (await client.delete(path)).status_code == 204
        (left,) = (await client.get(f"{paths[0]}/artifacts")).json()["artifacts"]
        raw = {"accept": "application/octet-stream"}
        for _ in range(20):  # while the sweeper looks at the sessions that have gone
            assert (await client.get(f"{paths[0]}/artifacts/{left['artifact_id']}", headers=raw)).content == content
            await asyncio.sleep(0.1)


async def test_the_largest_file_is_never_in_memory(place: Place) -> None:
    piece, digest = os.urandom(MIB), hashlib.sha256()
    size = limits.MAX_FILE_BYTES

    async def body(length: int) -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(length // MIB):
            yield piece
        yield piece[: length % MIB] + b"\r\n--b--\r\n"

    for _ in range(size // MIB):
        digest.update(piece)
    headers = {"content-type": "multipart/form-data; boundary=b"}
    async with place.client() as client:
        before = peak_memory(place.server.process.pid)
        answer = await client.post(f"{PATH}/events", content=body(size), headers=headers)
        assert answer.status_code == 201, answer.text
        (file,) = answer.json()["events"][1]["artifacts"]
        url, seen = f"{PATH}/artifacts/{file['artifact_id']}", hashlib.sha256()
        async with client.stream("GET", url, headers={"accept": "application/octet-stream"}) as response:
            async for chunk in response.aiter_raw():
                seen.update(chunk)
        assert seen.digest() == digest.digest()
        length = 0
        async with client.stream("GET", url) as response:
            async for chunk in response.aiter_raw():
                length += len(chunk)
        assert length == int(response.headers["content-length"]) > size * 4 // 3
        assert peak_memory(place.server.process.pid) - before < 32 * MIB
        with contextlib.suppress(httpx.TransportError):  # the answer may be lost with the body that nobody reads
            refused(
                await client.post(f"{PATH}/events", content=body(size + 1), headers=headers), 413, "request_too_large"
            )
        assert len((await client.get(f"{PATH}/artifacts")).json()["artifacts"]) == 1

        async def is_gone() -> bool:
            return not place.arriving()

        await eventually(is_gone)
    assert len(place.stored()) == 1


def peak_memory(pid: int) -> int:
    """The most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
