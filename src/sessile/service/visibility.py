"""Use-cases of who may see an event: hide it, show it again, delete it for good."""

from sessile.domain.log import Entry
from sessile.ports import LiveSink, Principal, Store, TurnQueue
from sessile.rows import SessionRef, Shown


class Visibility:
    """What can be done to events that stand in a log. Each is durable, and in the log, before it is answered.

    While a turn runs, it reads the log again before its next model call. All raise NotFound, RecordFixed,
    SessionRunning for events of a turn that has not ended, and StorageUnavailable; nothing was changed then.
    """

    def __init__(self, store: Store, queue: TurnQueue, live: LiveSink) -> None:
        self._store = store
        self._queue = queue
        self._live = live

    async def set_hidden(
        self, principal: Principal, agent_key: str, session_key: str, event_id: str, *, hidden: bool
    ) -> Entry:
        """Hide an event from models and from readers that do not ask for it, or show it again."""
        ref = SessionRef(principal.tenant_id, agent_key, session_key)
        return self._changed(await self._store.set_hidden(ref, event_id, hidden))

    async def delete(self, principal: Principal, agent_key: str, session_key: str, event_id: str) -> None:
        """Erase an event for good."""
        self._changed(await self._store.delete_event(SessionRef(principal.tenant_id, agent_key, session_key), event_id))

    def _changed(self, shown: Shown) -> Entry:
        if shown.records:
            self._live.announce(shown.session_id, shown.records)
            self._queue.log_changed(shown.session_id)
        return shown.entry
