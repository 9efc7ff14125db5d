"""The vault over a real store: what is revealed, what is refused, and rotations that are cut off anywhere."""

import base64
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sessile.auth.keyring import Key, Keyring, new_key
from sessile.auth.vault import Vault, rotate
from sessile.ports import Seal
from sessile.rows import SessionChanges, SessionRef
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.clock import FakeClock
from sessile.testing.store_world import AGENT, SESSION, new_tenant
from sessile.wire.errors import SecretsUnavailable, StorageUnavailable

AGENTS = {f"a{number}": f"agent {number}" for number in range(90)}
OWN = {"a1": "own", **{f"s{number}": f"session {number}" for number in range(90)}}


class World:
    """A store with secrets of an agent and of a session."""

    def __init__(self, folder: Path, store: SqliteStore) -> None:
        self.path = folder / "k"
        self.database = folder / "sessile.db"
        self.store = store
        self.keyring = Keyring(self.path, None)
        self.vault = Vault(store, self.keyring)

    async def fill(self) -> None:
        self.tenant = await new_tenant(self.store)
        self.ref = SessionRef(self.tenant, AGENT, SESSION)
        await self.write(AGENTS)

        async def verb(seal: Seal) -> None:
            await self.store.update_session(self.ref, SessionChanges(), None, seal)

        await self.vault.write(OWN, verb)
        row = await self.store.get_session(self.ref)
        self.ids = (row.agent_id, row.id)

    async def write(self, values: dict[str, str], vault: Vault | None = None) -> None:
        async def verb(seal: Seal) -> None:
            await self.store.write_agent_secrets(self.tenant, AGENT, seal, False)

        await (vault or self.vault).write(values, verb)

    async def revealed(self, keyring: Keyring | None = None) -> dict[str, str]:
        """What somebody who starts now is given."""
        return await Vault(self.store, keyring or self.keyring).reveal(*self.ids)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = await SqliteStore.open(tmp_path / "sessile.db", FakeClock())
    world = World(tmp_path, store)
    await world.fill()
    yield world
    await store.close()


async def test_the_secrets_of_a_session_win_over_those_of_its_agent(world: World) -> None:
    assert await world.revealed() == AGENTS | OWN
    assert await world.vault.reveal(world.ids[0], world.ids[1] + 1) == AGENTS
    assert await world.vault.reveal(world.ids[0] + 1, world.ids[1]) == {}


async def test_nothing_is_in_the_clear_and_nothing_is_encrypted_alike(world: World) -> None:
    await world.write({"x": "the same text", "y": "the same text"})
    stored = [one.value for one in await world.store.secrets_under_other_keys("none", 1000)]
    assert len(set(stored)) == len(stored) == len(AGENTS) + len(OWN) + 2
    assert not any(b"agent" in value or b"the same" in value for value in stored)
    key = world.keyring.keys()[0]
    assert base64.urlsafe_b64encode(key.material).decode() not in repr(key)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE secrets SET value = (SELECT value FROM secrets WHERE name = 'a2') WHERE name = 'a1'",
        "UPDATE secrets SET name = 'renamed' WHERE name = 'a2'",
        "UPDATE secrets SET agent_id = agent_id + 1",
        "UPDATE secrets SET value = substr(value, 1, length(value) - 1)",
        "UPDATE secrets SET value = X'00'",
        "UPDATE secrets SET key_id = 'another'",
    ],
)
async def test_what_was_changed_in_the_database_is_not_revealed(world: World, change: str) -> None:
    with closing(sqlite3.connect(world.database)) as connection:
        connection.execute(change)
        connection.commit()
    with pytest.raises(SecretsUnavailable):
        await Vault(world.store, world.keyring).reveal(world.ids[0] + ("agent_id" in change), world.ids[1])


async def test_a_rotation_changes_every_value_and_forgets_the_old_key(world: World) -> None:
    (old,) = world.keyring.keys()
    assert await rotate(world.store, world.keyring) == len(AGENTS) + len(OWN)
    (new,) = world.keyring.keys()
    assert new != old
    assert {one.key_id for one in await world.store.sealed_secrets(*world.ids)} == {new.id}
    assert await world.revealed() == await world.vault.reveal(*world.ids) == AGENTS | OWN
    await world.write({"later": "x"})
    assert (await world.revealed())["later"] == "x"


STEPS = ("use_secrets_key", "secrets_under_other_keys", "replace_sealed", "second slice", "replace")


class CutOff:
    """Passes everything on until one step, which fails as a crash would."""

    def __init__(self, behind: Any, fails: Callable[[str], bool]) -> None:
        self._behind = behind
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        if self._fails(name):
            raise StorageUnavailable
        return getattr(self._behind, name)


@pytest.mark.parametrize("step", STEPS)
async def test_a_rotation_that_is_cut_off_loses_nothing_and_is_finished(world: World, step: str) -> None:
    calls: list[str] = []

    def fails(name: str) -> bool:
        calls.append(name)
        if step == "second slice":
            return calls.count("replace_sealed") == 2
        return name == step and (name != "replace" or calls.count("replace") == 2)

    with pytest.raises(StorageUnavailable):
        await rotate(CutOff(world.store, fails), CutOff(world.keyring, fails))  # type: ignore[arg-type]
    assert await world.revealed() == await world.vault.reveal(*world.ids) == AGENTS | OWN
    await world.write({"meanwhile": "x"})
    expected = {"meanwhile": "x"} | AGENTS | OWN
    assert await world.revealed() == expected
    assert len(world.keyring.keys()) == 2
    promised = world.keyring.keys()[0]
    await rotate(world.store, world.keyring)
    assert world.keyring.keys() == [promised]
    assert await world.revealed() == expected


async def test_a_key_of_the_environment_is_changed_by_putting_one_in_front(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "sessile.db", FakeClock())
    old, new = (base64.urlsafe_b64encode(new_key().material).decode() for _ in range(2))
    world = World(tmp_path, store)
    world.keyring = Keyring(world.path, old)
    world.vault = Vault(store, world.keyring)
    await world.fill()
    assert not world.path.exists()
    with pytest.raises(SecretsUnavailable, match="in front"):
        await rotate(store, world.keyring)
    with pytest.raises(SecretsUnavailable):
        await rotate(store, Keyring(world.path, new))
    both = Keyring(world.path, f"{new},{old}")
    await world.write({"before": "x"}, Vault(store, both))
    assert await rotate(store, both) == len(AGENTS) + len(OWN) + 1
    assert await world.revealed(Keyring(world.path, new)) == {"before": "x"} | AGENTS | OWN
    with pytest.raises(SecretsUnavailable):
        await world.revealed(Keyring(world.path, old))
    assert not world.path.exists()
    await store.close()


@pytest.mark.parametrize("text", ["x", "é", base64.urlsafe_b64encode(b"short").decode(), "A" * 44])
def test_what_is_no_key_is_refused_without_being_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(SecretsUnavailable) as refusal:
        Keyring(tmp_path / "k", text).keys()
    assert text not in str(refusal.value) or text == "x"


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SecretsUnavailable, match="cannot be written"):
        Keyring(tmp_path / "no" / "k", None).first()


def test_a_file_that_is_there_is_never_made_again(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "k", None)
    (key,) = keyring.first()
    keyring._write([new_key()], fresh=True)
    assert keyring.first() == [key]
    assert isinstance(key, Key)
    assert msgspec.structs.asdict(key)["id"].startswith("sk_")
