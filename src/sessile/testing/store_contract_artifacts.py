"""What every Store must keep of the files of sessions. Part of `store_contract`."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from sessile.domain.log import draft
from sessile.ports import Store
from sessile.rows import Claim, FileName, NewArtifact, Once, SessionRef, Uploaded
from sessile.testing.store_world import (
    AGENT,
    DONE,
    NOTHING,
    Fixtures,
    Harness,
    accept,
    admit_all,
    answered,
    new_session,
    new_tenant,
    purge_all,
    read_all,
    said,
    walk,
    whole_turn,
)
from sessile.wire import ids
from sessile.wire.errors import FenceLost, NotFound, SessionFull
from sessile.wire.events import ArtifactUploadEvent
from sessile.wire.limits import MAX_SESSION_FILE_BYTES, MAX_SESSION_FILES

DAY_SECONDS = 24 * 60 * 60
MANY = 250
"""More rows than one slice holds."""


def file(letter: str = "a", **fields: Any) -> NewArtifact:
    """A file whose hash is this letter, many times."""
    values: dict[str, Any] = {"name": f"{letter}.txt", "content_type": "text/plain", "size": 3, "sha256": letter * 64}
    return NewArtifact(artifact_id=ids.artifact_id(), **(values | fields))


def uploaded(*artifacts: NewArtifact) -> Uploaded:
    """Files as they come with an input."""
    event = ArtifactUploadEvent(artifacts=[one.reference() for one in artifacts], agent_upload_message="Look.")
    return Uploaded(draft(event), artifacts)


async def send(store: Store, ref: SessionRef, *artifacts: NewArtifact, once: Once | None = None) -> Any:
    """A running turn whose input brought files."""
    return await store.accept_input(ref, said(), ids.turn_id(), admit_all, once, uploaded=uploaded(*artifacts))


async def sent(store: Store, ref: SessionRef, *artifacts: NewArtifact) -> Claim:
    """A turn that has ended, whose input brought files."""
    claim: Claim = await send(store, ref, *artifacts)
    await store.append(claim.fence, [answered()], NOTHING, DONE)
    return claim


async def listed(store: Store, ref: SessionRef, order: Any = "asc", limit: int = 2) -> list[str]:
    """The names of all files of a session, page by page."""
    rows = await walk(lambda cursor: store.list_artifacts(ref, cursor=cursor, limit=limit, order=order))
    return [row.name for row in rows]


async def taken(store: Store) -> list[FileName]:
    """What all expired files named."""
    found: list[FileName] = []
    while some := await store.take_expired_artifacts(100):
        found += some
    return found


class ArtifactContract(Fixtures):
    """Files are a session's, from the commit that brings them to the end of their time, or its."""

    async def test_files_come_in_the_commit_of_their_input(self, harness: Harness, ref: SessionRef) -> None:
        store = harness.store
        first, second = file("a", ttl_days=1), file("b")
        claim = await sent(store, ref, first, second)
        assert [(entry.sequence, entry.type) for entry in claim.opened] == [
            (1, "input_message"),
            (2, "turn_started"),
            (3, "artifact_upload"),
        ]
        store = await harness.reopen()
        log = await read_all(store, claim.session.id)
        assert [entry.type for entry in log][:3] == ["input_message", "turn_started", "artifact_upload"]
        row = await store.get_artifact(ref, first.artifact_id)
        assert (row.name, row.content_type, row.size, row.sha256, row.ttl_days) == (
            "a.txt",
            "text/plain",
            3,
            "a" * 64,
            1,
        )
        assert (row.session_id, row.tenant_id) == (claim.session.id, ref.tenant_id)
        assert row.created_at == claim.opened[0].created_at
        assert await store.count_artifacts(claim.session.id) == (2, 6)
        assert (await store.get_session(ref)).last_event_id == log[-2].id

    async def test_an_input_with_files_moves_the_last_event(self, store: Store, ref: SessionRef) -> None:
        claim = await send(store, ref, file())
        session = await store.get_session(ref)
        assert (session.last_sequence, session.last_event_id) == (3, claim.opened[2].id)

    async def test_a_turn_makes_files(self, store: Store, ref: SessionRef) -> None:
        claim = await accept(store, ref)
        made = file("c")
        await store.append(claim.fence, [uploaded(made).event], NOTHING, artifacts=[made])
        assert await listed(store, ref) == ["c.txt"]
        lost = structs.replace(claim.fence, token=claim.fence.token + 1)
        with pytest.raises(FenceLost):
            await store.append(lost, [], NOTHING, artifacts=[file("d")])
        assert await listed(store, ref) == ["c.txt"]

    async def test_pages_in_both_orders(self, store: Store, ref: SessionRef) -> None:
        await sent(store, ref, *(file(letter) for letter in "abcde"))
        assert await listed(store, ref) == [f"{letter}.txt" for letter in "abcde"]
        assert await listed(store, ref, "desc") == [f"{letter}.txt" for letter in "edcba"]
        page = await store.list_artifacts(ref, cursor=None, limit=5, order="asc")
        assert page.next is None

    async def test_other_sessions_and_tenants_have_none(self, store: Store, ref: SessionRef) -> None:
        own = file()
        await sent(store, ref, own)
        other = await new_session(store, ref.tenant_id, "other")
        foreign = SessionRef(await new_tenant(store, "foreign"), AGENT, ref.session_key)
        for place in (other, foreign):
            assert await listed(store, place) == []
            with pytest.raises(NotFound):
                await store.get_artifact(place, own.artifact_id)
        for missing in (SessionRef(ref.tenant_id, AGENT, "none"), SessionRef(ref.tenant_id, "none", "none")):
            with pytest.raises(NotFound):
                await store.list_artifacts(missing, cursor=None, limit=1, order="asc")

    async def test_a_session_can_be_full(self, store: Store, ref: SessionRef) -> None:
        await sent(store, ref, *(file() for _ in range(MAX_SESSION_FILES - 1)))
        with pytest.raises(SessionFull):
            await send(store, ref, file(), file())
        assert (await store.get_session(ref)).status == "stopped"
        await sent(store, ref, file())
        other = await new_session(store, ref.tenant_id, "other")
        with pytest.raises(SessionFull):
            await send(store, other, file(size=MAX_SESSION_FILE_BYTES), file(size=1))
        assert await store.count_artifacts((await store.get_session(other)).id) == (0, 0)
        assert (await store.get_session(other)).last_sequence == 0

    async def test_a_turn_makes_no_more_files_than_a_session_holds(self, store: Store, ref: SessionRef) -> None:
        claim: Claim = await send(store, ref, *(file() for _ in range(MAX_SESSION_FILES - 2)))
        head = (await store.get_session(ref)).last_sequence
        calls = (store.append(claim.fence, [answered()], NOTHING, artifacts=[file()]) for _ in range(4))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes].count(SessionFull) == 2
        with pytest.raises(SessionFull):
            await store.append(claim.fence, [], NOTHING, DONE, artifacts=[file()])
        with pytest.raises(SessionFull):
            await store.park(claim.fence, [answered()], NOTHING, [], artifacts=[file()])
        session = await store.get_session(ref)
        assert (session.last_sequence, session.running_turn) == (head + 2, claim.turn_id)
        assert (await store.count_artifacts(session.id))[0] == MAX_SESSION_FILES

    async def test_the_same_input_brings_its_files_once(self, store: Store, ref: SessionRef) -> None:
        once = Once("k", b"this")
        await send(store, ref, file("a"), once=once)
        await send(store, ref, file("a"), once=once)
        assert await listed(store, ref) == ["a.txt"]

    async def test_what_is_over_is_gone_and_its_bytes_are_told(self, harness: Harness, ref: SessionRef) -> None:
        store, short, long = harness.store, file("a", ttl_days=1), file("b", ttl_days=2)
        claim = await sent(store, ref, short, long, file("c"))
        assert await taken(store) == []
        await harness.clock.advance(DAY_SECONDS)
        assert await listed(store, ref) == ["b.txt", "c.txt"]
        assert await store.count_artifacts(claim.session.id) == (2, 6)
        with pytest.raises(NotFound):
            await store.get_artifact(ref, short.artifact_id)
        assert await taken(store) == [FileName(ref.tenant_id, "a" * 64)]
        assert await taken(store) == []
        assert await listed(store, ref) == ["b.txt", "c.txt"]

    async def test_files_go_with_their_session_and_their_agent(self, store: Store, ref: SessionRef) -> None:
        other = await new_session(store, ref.tenant_id, "other")
        await sent(store, ref, *(file("a") for _ in range(MANY)))
        await sent(store, other, file("b"))
        await store.delete_session(ref, None)
        await purge_all(store)
        assert await taken(store) == [FileName(ref.tenant_id, "a" * 64)] * MANY
        await store.delete_agent(ref.tenant_id, AGENT)
        await purge_all(store)
        assert await taken(store) == [FileName(ref.tenant_id, "b" * 64)]

    async def test_which_bytes_are_named(self, store: Store, ref: SessionRef) -> None:
        foreign = await new_tenant(store, "foreign")
        await sent(store, ref, file("a"))
        asked = [FileName(tenant, letter * 64) for tenant in (ref.tenant_id, foreign) for letter in "ab"]
        assert await store.named_files(asked) == {FileName(ref.tenant_id, "a" * 64)}
        assert await store.named_files([]) == set()

    async def test_sessions_take_files_at_once(self, store: Store, ref: SessionRef) -> None:
        places = [ref] + [await new_session(store, ref.tenant_id, f"s{number}") for number in range(20)]
        await asyncio.gather(*(sent(store, place, file("a"), file("b")) for place in places))
        for place in places:
            assert await listed(store, place) == ["a.txt", "b.txt"]

    async def test_a_turn_without_files_has_none(self, store: Store, ref: SessionRef) -> None:
        await whole_turn(store, ref)
        assert await listed(store, ref) == []
