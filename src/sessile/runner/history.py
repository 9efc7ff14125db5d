"""The history a turn gives its model: the end of the log, as much as the window pays for. Remembered between turns."""

from collections import OrderedDict

from msgspec import Struct, field

from sessile.domain.context import Conversation
from sessile.domain.log import Entry
from sessile.ports import Store
from sessile.rows import Claim, EventQuery, Summary

_PAGE = 64
_REMEMBERED_CHARS = 16 * 1024 * 1024
_OVERHEAD_CHARS = 2_000
"""What a remembered history costs besides its text."""


class History(Struct):
    """A conversation up to one place of its log, for a model with a budget of characters."""

    budget: int = 0
    conversation: Conversation = field(default_factory=Conversation)
    last_sequence: int = 0
    chars: int = 0
    cut: bool = False
    """Whether older turns stand in the log that were not read because the budget was spent."""
    stale_through: int = 0
    """A summary that stood for all up to this place is stale: another one has to be made; 0 when none is."""


class Histories:
    """Histories of sessions that ran here lately. A log that has moved on since then is read again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[int, History] = OrderedDict()
        self._chars = 0

    async def take(self, claim: Claim, budget: int) -> History:
        """The history of a claimed turn, its own input last."""
        history = self._forget(claim.session.id)
        if history is None or history.last_sequence != claim.session.last_sequence or history.budget != budget:
            history = await self.read(claim.session.id, budget, claim.session.last_sequence)
        if claim.opened:
            for entry in claim.opened:
                history.conversation.add(entry.event())
            history.last_sequence = claim.opened[-1].sequence
        return history

    def keep(self, claim: Claim, history: History) -> None:
        """Remember a history after its turn has ended."""
        self._forget(claim.session.id)
        history.chars = history.conversation.chars + _OVERHEAD_CHARS
        self._kept[claim.session.id] = history
        self._chars += history.chars
        while self._chars > _REMEMBERED_CHARS:
            self._forget(next(iter(self._kept)))

    def _forget(self, session_id: int) -> History | None:
        history = self._kept.pop(session_id, None)
        if history is not None:
            self._chars -= history.chars
        return history

    async def read(
        self, session_id: int, budget: int, through: int | None = None, summary: Summary | None = None
    ) -> History:
        """Read the log backwards, from its end or from a place, to what a summary stands for, or until the budget is
        spent; and start at an input.

        The newest input is always read, with all that follows. Hidden and deleted events are read too: one half of a
        tool call may be hidden. `summary`: what is to stand for the beginning, if not what the log says.
        """
        if through == 0:
            return History(budget)
        if summary is None:
            summary = await self._store.summary(session_id)
        entries: list[Entry] = []
        left, begun, more = budget - len(summary.text or ""), False, True
        cursor = None if through is None else through + 1
        while more and (left > 0 or not begun):
            query = EventQuery(cursor=cursor, limit=_PAGE, order="desc", records=True, include_deleted=True)
            page = await self._store.read_log(session_id, query)
            rows = [entry for entry in page.rows if entry.sequence > summary.through]
            entries += rows
            left -= sum(len(entry.body) for entry in rows)
            begun = begun or any(entry.type == "input_message" for entry in rows)
            cursor, more = page.next, page.next is not None and page.next > summary.through + 1
        last = entries[0].sequence if entries else summary.through
        while more and entries and entries[-1].type != "input_message":
            entries.pop()
        history = History(
            budget, Conversation(summary.text), last_sequence=last, cut=more, stale_through=summary.stale_through
        )
        for entry in reversed(entries):
            history.conversation.add(entry.event())
        return history
