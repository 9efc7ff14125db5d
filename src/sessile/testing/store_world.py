"""A small world for the Store contract: a tenant, an agent, a session, and the events of its turns."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import msgspec
import pytest

from sessile.domain.log import Draft, Entry, draft
from sessile.ports import Store
from sessile.rows import (
    AgentRow,
    Claim,
    Cover,
    EventQuery,
    Fence,
    NewSession,
    Page,
    SessionRef,
    SessionRow,
    TurnEnd,
    TurnProgress,
)
from sessile.testing.clock import FakeClock
from sessile.wire import ids
from sessile.wire.events import AgentOutputEvent, InputMessageEvent, TextPart, ThinkingEvent
from sessile.wire.sessions import Usage

AGENT, SESSION = "support", "chat"
DOCUMENT = b'{"name":"Support"}'
NOTHING = TurnProgress(turn_usage=Usage(), session_usage=Usage(), context_usage=None)
DONE = TurnEnd("end_turn")
EVERYTHING = EventQuery(limit=100, records=True, include_hidden=True)
MANY_PURGES = 1_000


class Harness(Protocol):
    """A store that can be closed and opened again on the same data."""

    store: Store
    clock: FakeClock
    """The clock of the store, also after it was opened again."""

    async def reopen(self) -> Store:
        """Close the store and open what it left behind."""


async def new_tenant(store: Store, key: str = "acme") -> int:
    """A tenant with one agent and one session."""
    tenant = (await store.create_tenant(key, key.title())).id
    await store.create_agent(tenant, AGENT, DOCUMENT, True)
    await new_session(store, tenant)
    return tenant


async def new_session(store: Store, tenant: int, key: str = SESSION, **fields: Any) -> SessionRef:
    """A session of the tenant's agent."""
    values: dict[str, Any] = {"name": key, "description": None, "metadata": b"{}", "enabled": True, "tti_minutes": 0}
    await store.create_session(tenant, AGENT, NewSession(key=key, **(values | fields)))
    return SessionRef(tenant, AGENT, key)


def said(text: str = "Hello") -> Draft:
    """An input."""
    return draft(InputMessageEvent(messages=[TextPart(content=text)], content=text))


def thought(text: str = "Hm.") -> Draft:
    """A thinking event."""
    return draft(ThinkingEvent(content=text, output_id="out_1"))


def answered(text: str = "Hi.") -> Draft:
    """An output."""
    return draft(AgentOutputEvent(content=text, output_id="out_1"))


def admit_all(agent: AgentRow, session: SessionRow) -> None:
    """Every input is welcome."""


async def accept(store: Store, ref: SessionRef, text: str = "Hello") -> Claim:
    """A running turn."""
    claim = await store.accept_input(ref, said(text), ids.turn_id(), admit_all)
    assert isinstance(claim, Claim)
    return claim


async def append(
    store: Store,
    fence: Fence,
    drafts: Sequence[Draft],
    progress: TurnProgress,
    end: TurnEnd | None = None,
    cover: Cover | None = None,
) -> list[Entry]:
    """What `Store.append` has added."""
    return (await store.append(fence, drafts, progress, end, cover)).entries


async def whole_turn(store: Store, ref: SessionRef, *drafts: Draft) -> list[Entry]:
    """The events of a turn that has ended."""
    claim = await accept(store, ref)
    return claim.opened + await append(store, claim.fence, drafts or (answered(),), NOTHING, DONE)


async def read_all(store: Store, session_id: int, query: EventQuery = EVERYTHING) -> list[Entry]:
    """Every page of a log, each as short as the store likes."""
    return await walk(lambda cursor: store.read_log(session_id, msgspec.structs.replace(query, cursor=cursor)))


async def purge_all(store: Store) -> int:
    """Purge until nothing is left; returns how many calls that took."""
    for calls in range(1, MANY_PURGES):
        if not await store.purge():
            return calls
    raise AssertionError("purge never ends")


async def walk(page_at: Callable[[int | None], Awaitable[Page[Any]]]) -> list[Any]:
    """The rows of all pages."""
    rows: list[Any] = []
    cursor = None
    while True:
        page = await page_at(cursor)
        rows += page.rows
        if page.next is None:
            return rows
        assert page.next != cursor, "a cursor must move"
        cursor = page.next


def shown(entries: Sequence[Entry]) -> list[bytes]:
    """What readers see of entries."""
    return [entry.json for entry in entries]


def sequences(entries: Sequence[Entry]) -> list[int]:
    """Their places."""
    return [entry.sequence for entry in entries]


class Fixtures:
    """Subclass with a fixture `harness`."""

    @pytest.fixture
    def store(self, harness: Harness) -> Store:
        """An empty store."""
        return harness.store

    @pytest.fixture
    async def tenant(self, store: Store) -> int:
        """A tenant with one agent and one session."""
        return await new_tenant(store)

    @pytest.fixture
    async def ref(self, tenant: int) -> SessionRef:
        """The session."""
        return SessionRef(tenant, AGENT, SESSION)
