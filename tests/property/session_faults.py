"""What may happen to a server and to those who follow its sessions, as steps of the stateful test."""

import asyncio

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from incarnation import AGENT, OWNER
from property.session_follower import Follower
from property.session_model import Commits
from property.session_stage import SESSIONS, Stage, aside, disturbance, made, which
from sessile.rows import LEASE_SECONDS
from sessile.stores.sqlite.store import SqliteStore
from sessile.testing.faults import When

SETBACK_SECONDS = 60
PATIENCE = 20.0
how_often = st.sampled_from([1, 1, 1, 3, 5])


class Faults(Stage):
    """Kills, stops, stalls, what is lost, a clock that goes back; sessions that are deleted, and followers."""

    @precondition(lambda self: self.running)
    @disturbance(times=how_often)
    def crash(self, times: int) -> None:
        """Once, or again and again."""
        for _ in range(times):
            self.runner.run(self.killed())

    @disturbance(commit=st.integers(1, 3), when=st.sampled_from(["before", "after"]))
    def crash_at(self, commit: int, when: When) -> None:
        """The server will be killed at one of the next commits, whatever that is then."""
        self.fuse = commit, when
        self.server.life.kill_at(commit, when)

    @precondition(lambda self: self.running)
    @disturbance(finishing=st.booleans(), times=how_often)
    def stop(self, finishing: bool, times: int) -> None:
        """A polite stop, in which models may finish their answers, and the next start."""
        for _ in range(times):
            self.undisturbed(lambda: self._stop(finishing))

    async def _stop(self, finishing: bool) -> None:
        all_speak = not self.those("tools", "time")
        stopping = asyncio.create_task(self.server.stop(PATIENCE if finishing and all_speak else 0))
        await asyncio.sleep(0)
        for session in self.those("model") if finishing and all_speak else ():
            await self.puppets.model.open[session].put(None)
            made(self.expected[session].finish())
        left = {session for session in self.those("model", "tools", "time")}
        await stopping
        for session in left:
            self.expected[session].leave()
        for follower in self.followers:
            if follower.connected and follower.going.is_set():
                await follower.saw(None, "drain")
            await follower.disconnect()
        await self.end_stalled()
        await self.server.end()
        self.next_life(await SqliteStore.open(self.folder / "s.db", self.shifted))
        await self.server.worker.recover()
        await self.settle()
        for session, expected in self.expected.items():
            made(expected.take_up(counts=session not in left))
        await self.come_back()

    @precondition(lambda self: self.those("time"))
    @rule()
    def let_time_pass(self) -> None:
        self.act(lambda: self.pass_time(1))

    async def pass_time(self, seconds: float) -> None:
        """Those that wait for time go on."""
        for session in self.those("time"):
            self.expected[session].running.waits = False
        await self.clock.advance(seconds)

    @precondition(lambda self: self.running)
    @disturbance()
    def let_leases_pass(self) -> None:
        """The worker keeps what it runs, and takes up what nobody runs."""
        self.undisturbed(self._let_leases_pass)

    async def _let_leases_pass(self) -> None:
        await self.pass_time(self.set_back + LEASE_SECONDS)
        self.set_back = 0
        await self.server.worker.tend_leases()
        await self.settle()
        for session in self.those("worker"):
            made(self.expected[session].take_up())

    @precondition(lambda self: self.those("model", "tools", "time"))
    @disturbance(writing=st.booleans())
    def stall(self, writing: bool) -> None:
        """The server stalls past its leases, perhaps right before it writes; another one takes its turns over."""
        self.undisturbed(lambda: self._stall(writing))

    async def _stall(self, writing: bool) -> None:
        await self.end_stalled()
        self.stalled = self.server, self.puppets
        self.server.life.stall()
        if writing:
            for steps in self.puppets.model.open.values():
                steps.put_nowait(None)
        await self.settle()
        await self.pass_time(self.set_back + LEASE_SECONDS)
        await self.settle()
        self.set_back = 0
        self.next_life(self.server.database)
        await self.server.worker.tend_leases()
        await self.settle()
        for expected in self.expected.values():
            made(expected.take_up())
        await self.come_back()

    @precondition(lambda self: self.stalled)
    @rule(looks=st.booleans())
    def wake_up(self, looks: bool) -> None:
        """The stalled one goes on, perhaps with a look at its leases first, and changes nothing."""
        self.undisturbed(lambda: self._wake_up(looks))

    async def _wake_up(self, looks: bool) -> None:
        assert self.stalled is not None
        stalled, puppets = self.stalled
        if looks:
            await self._let_leases_pass()
        stalled.life.resume()
        if looks:
            await stalled.worker.tend_leases()
            await self.settle()
        puppets.let_go()
        await self.settle()
        assert not puppets.model.open
        await self.end_stalled()

    @disturbance(announcements=st.integers(1, 3))
    def lose_announcements(self, announcements: int) -> None:
        self.server.sink.lose(announcements)

    @disturbance()
    def set_the_clock_back(self) -> None:
        self.set_back += SETBACK_SECONDS
        self.shifted.shift(-SETBACK_SECONDS)

    @precondition(lambda self: len(self.expected) < len(SESSIONS))
    @rule()
    def make_anew(self) -> None:
        """A session with the key of one that was deleted."""
        self.create(next(session for session in SESSIONS if session not in self.expected))

    @precondition(lambda self: self.expected)
    @disturbance(number=which)
    def delete(self, number: int) -> None:
        session = list(self.expected)[number % len(self.expected)]
        gone = self.expected[session]
        followers = [follower for follower in self.followers if follower.session == session]

        def deleted() -> Commits:
            yield
            del self.expected[session]
            if gone.turn and any(call.code != "" for call in gone.turn.calls):
                yield  # its turn tries to keep what some tools have answered, and is refused

        lives = self.server.life
        self.act(lambda: self.server.sessions.delete(OWNER, AGENT, session, None), deleted())
        if session not in self.expected and self.server.life is lives:
            self.runner.run(self._ended(followers))
        self.forget_followers()

    async def _ended(self, followers: list[Follower]) -> None:
        for follower in followers:
            follower.going.set()
            if follower.connected:
                await follower.saw(None, "deleted")
            await follower.disconnect()

    # Followers.

    @precondition(lambda self: self.expected and len(self.followers) < 4)
    @aside(number=which, place=which)
    def follow(self, number: int, place: int) -> None:
        """From any place of the log."""
        session = list(self.expected)[number % len(self.expected)]

        async def follow() -> None:
            ids = ["start", *(event["id"] for event in await self.server.log(session))]
            follower = Follower(session, ids[place % len(ids)])
            self.followers.append(follower)
            await follower.connect(self.server)

        self.act(follow)

    @precondition(lambda self: self.followers)
    @aside(number=which, how=st.sampled_from(["cut", "come back", "stop reading", "read"]))
    def move_follower(self, number: int, how: str) -> None:
        follower = self.followers[number % len(self.followers)]
        self.restless = None

        async def move() -> None:
            if how in ("cut", "come back"):
                await follower.disconnect()
            if how == "come back":
                await follower.connect(self.server)
            if how == "stop reading":
                follower.going.clear()
            if how == "read":
                follower.going.set()

        self.act(move)

    @precondition(lambda self: self.followers)
    @aside(number=which, turns=st.integers(0, 12))
    def come_back_in_the_middle(self, number: int, turns: int) -> None:
        self.restless = self.followers[number % len(self.followers)], turns
