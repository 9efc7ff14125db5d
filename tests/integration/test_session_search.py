"""What a page of a filtered list costs at the worst: every other read waits for it."""

from pathlib import Path

from sessile.clock import SystemClock
from sessile.domain.filter_parser import parse
from sessile.rows import NewSession, SessionQuery
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.store_world import DOCUMENT
from sessile.wire import codec
from sessile.wire.limits import MAX_FILTER_CONDITIONS

_SESSIONS = 12


async def test_many_conditions_on_large_metadata_make_short_pages_that_miss_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "s.db", SystemClock())
    tenant = (await store.create_tenant("default", "Default")).id
    await store.create_agent(tenant, "a", DOCUMENT, True)
    for number in range(_SESSIONS):
        tags = [*range(100, 12_000), str(number)]
        metadata = codec.encode({"tags": tags})
        new = NewSession(key=f"s{number}", name="", description=None, metadata=metadata, enabled=True, tti_minutes=0)
        await store.create_session(tenant, "a", new)
    never = " OR ".join(f"'no{number}' IN tags" for number in range(MAX_FILTER_CONDITIONS - 1))
    query = SessionQuery(limit=100, metadata=parse(f"{never} OR '1' IN tags"))
    found: list[str] = []
    pages = 0
    while True:
        page = await store.find_sessions(tenant, query)
        found += [row.key for row in page.rows]
        pages += 1
        if page.next is None:
            break
        query = SessionQuery(limit=100, metadata=query.metadata, cursor=page.next)
    assert found == ["s1"]
    assert pages > 1
    few = await store.find_sessions(tenant, SessionQuery(limit=100, metadata=parse("'1' IN tags")))
    assert ([row.key for row in few.rows], few.next) == (["s1"], None)
    await store.close()
