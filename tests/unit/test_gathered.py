import asyncio

import pytest

from sessile.api.gathered import GatheredWrites


class Wire(asyncio.Transport):
    """Keeps what it is given, write by write."""

    def __init__(self) -> None:
        super().__init__({"peername": "somebody"})
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 7

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def gathered(wire: Wire) -> GatheredWrites:
    return GatheredWrites(wire, asyncio.get_running_loop())


async def test_what_is_written_in_one_turn_of_the_loop_goes_together(wire: Wire, gathered: GatheredWrites) -> None:
    gathered.write(b"head ")
    gathered.write(b"body")
    assert wire.writes == []
    assert gathered.get_write_buffer_size() == 7 + 9
    await asyncio.sleep(0)
    assert wire.writes == [b"head body"]
    assert gathered.get_write_buffer_size() == 7
    gathered.write(b"more")
    await asyncio.sleep(0)
    assert wire.writes == [b"head body", b"more"]


async def test_a_flush_sends_at_once_and_only_once(wire: Wire, gathered: GatheredWrites) -> None:
    gathered.write(b"a")
    gathered.flush()
    gathered.write(b"b")
    gathered.flush()
    gathered.flush()
    await asyncio.sleep(0)
    assert wire.writes == [b"a", b"b"]


async def test_much_is_not_held_back(wire: Wire, gathered: GatheredWrites) -> None:
    gathered.write(b"head")
    gathered.write(b"x" * 20_000)
    assert wire.writes == [b"head" + b"x" * 20_000]


async def test_what_was_written_goes_before_the_end(wire: Wire, gathered: GatheredWrites) -> None:
    gathered.write(b"bye")
    gathered.close()
    assert wire.writes == [b"bye"]
    assert gathered.is_closing()


async def test_nothing_is_sent_on_a_connection_that_is_gone(wire: Wire, gathered: GatheredWrites) -> None:
    gathered.write(b"late")
    wire.close()
    await asyncio.sleep(0)
    assert wire.writes == []


async def test_all_else_is_asked_of_the_transport(gathered: GatheredWrites) -> None:
    assert gathered.get_extra_info("peername") == "somebody"
