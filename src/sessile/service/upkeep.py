"""Use-cases of whoever runs a store: is all that it keeps whole? They see every tenant."""

import contextlib
from collections.abc import AsyncIterator

import msgspec
from msgspec import Struct

from sessile.ports import Store
from sessile.rows import SessionRef, SessionRow
from sessile.service.log_check import check_log
from sessile.wire.errors import NotFound, StorageUnavailable
from sessile.wire.sessions import Violation

_PAGE = 100
DAMAGE, UNREADABLE = "damage", "unreadable"


class Finding(Struct, frozen=True):
    """Something that is wrong, and where. `rule`: one of a log, `unreadable`, or `damage`, which has no place."""

    rule: str
    message: str
    tenant: str | None = None
    agent: str | None = None
    session: str | None = None
    sequence: int | None = None
    event_id: str | None = None


class Checked(Struct):
    """How much was looked at so far."""

    sessions: int = 0
    events: int = 0


async def check_store(store: Store, checked: Checked) -> AsyncIterator[Finding]:
    """Everything that is wrong, as it is found, page by page: the database itself, agents, the log of every session.

    It works beside a running server: a log is read up to where its session stood. Raises StorageUnavailable when not
    even the sessions can be listed.
    """
    for line in await store.damage():
        yield Finding(DAMAGE, line)
    tenants = {tenant.id: tenant.key for tenant in await store.list_tenants()}
    for tenant_id, key in tenants.items():
        async for finding in _unreadable_agents(store, tenant_id, key):
            yield finding
    cursor: int | None = None
    while True:
        page = await store.all_sessions(cursor, _PAGE)
        for session in page.rows:
            for violation in await _violations(store, session):
                yield Finding(
                    violation.rule,
                    violation.message,
                    tenants.get(session.tenant_id, str(session.tenant_id)),
                    session.agent_key,
                    session.key,
                    violation.sequence,
                    violation.event_id,
                )
            checked.sessions += 1
            checked.events += session.last_sequence
        if page.next is None:
            return
        cursor = page.next


async def _unreadable_agents(store: Store, tenant_id: int, tenant: str) -> AsyncIterator[Finding]:
    """Agents of a tenant whose document makes no sense."""
    cursor: int | None = None
    with contextlib.suppress(StorageUnavailable):  # what cannot be read at all was found as damage
        while True:
            page = await store.list_agents(tenant_id, cursor=cursor, limit=_PAGE, enabled=None)
            for agent in page.rows:
                try:
                    msgspec.json.decode(agent.document, type=dict)
                except (msgspec.MsgspecError, ValueError) as error:
                    yield Finding(UNREADABLE, f"The agent cannot be read: {error}", tenant, agent.key)
            if page.next is None:
                return
            cursor = page.next


async def _violations(store: Store, session: SessionRow) -> list[Violation]:
    try:
        found = await check_log(store, session)
        if found:  # its log may be on its way out
            await store.get_session(SessionRef(session.tenant_id, session.agent_key, session.key))
        return found
    except NotFound:
        return []
    except (StorageUnavailable, msgspec.MsgspecError, ValueError) as error:
        return [Violation(rule=UNREADABLE, message=f"The log cannot be read: {error}", sequence=0, event_id="")]
