"""Breaks a promise in a copy of the source, one at a time; a test must notice each: `python -m checks.mutants`."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
COPIED = ("src", "tests", "examples", "pyproject.toml", "PROTOCOL.md", "README.md")
_SECONDS = 300


class Mutant(NamedTuple):
    """What is broken, where and how, and the tests that must fail then."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "acknowledge before the commit",
        "stores/sqlite/lanes.py",
        "            self._disk.put(lambda: self._commit(batch, outcomes))\n",
        "            _deliver(outcomes)\n            self._disk.put(lambda: self._commit([], []))\n",
        "tests/acceptance/test_durability.py -k before_it_is_synced",
    ),
    Mutant(
        "announce before the commit",
        "stores/sqlite/log_verbs.py",
        "        return await self._writer.run("
        "lambda db: log.append(db, fence, drafts, progress, end, now, lease, artifacts))\n",
        "        early: list[Appended] = []\n"
        "        wait = self._writer.run(\n"
        "            lambda db: early.append(log.append(db, fence, drafts, progress, end, now, lease, artifacts))\n"
        "            or early[0]\n"
        "        )\n"
        "        import asyncio\n"
        "        while not early and not wait.done():\n"
        "            await asyncio.sleep(0)\n"
        "        return early[0] if early else await wait\n",
        "tests/acceptance/test_durability.py -k disk_that_fails_loses",
    ),
    Mutant(
        "no fence check",
        "stores/sqlite/queries.sql",
        "AND t.fence = ? AND t.running = 1",
        "AND t.fence >= ? AND t.running = 1",
        "tests/integration/test_turns.py -k fence",
    ),
    Mutant(
        "an event twice at the seam",
        "live/tail.py",
        "            if entry.sequence > self._cursor:\n",
        "            if entry.sequence >= self._cursor:\n",
        "tests/unit/test_tail.py",
    ),
    Mutant(
        "the records of the input on the stream of its turn",
        "api/turn_answer.py",
        "or entry.sequence <= self._claim.opened[-1].sequence:",
        "or entry.sequence < self._claim.opened[0].sequence:",
        "tests/acceptance/test_streaming.py tests/unit/test_turn_answer.py",
    ),
    Mutant(
        "a retry after a delta was shown",
        "runner/model_call.py",
        "if answer.begun or wait is None:",
        "if wait is None:",
        "tests/integration/test_turns.py",
    ),
    Mutant(
        "a tool before its input is durable",
        "runner/turn.py",
        "        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)\n        await turn.append(",
        "        calls = dispatch.prepare_all(answer.tool_calls, plan.offered)\n"
        "        await dispatch.execute(calls)\n        await turn.append(",
        "tests/integration tests/acceptance/test_streaming.py tests/acceptance/test_lifecycle.py",
    ),
    Mutant(
        "a tool that is not idempotent runs again after a crash",
        "runner/dispatch.py",
        "again = same.tool if same and same.tool and same.tool.idempotent else None",
        "again = same.tool if same else None",
        "tests/integration/test_turns.py -k crash",
    ),
    Mutant(
        "a crash forgets how many model calls were made",
        "domain/turn.py",
        "    return sum(now and not before for before, now in pairwise([False, *kinds]))\n",
        "    return 0 if any(kinds) else 0\n",
        "tests/unit/test_turn_rules.py tests/integration/test_turns.py -k model_calls",
    ),
    Mutant(
        "open tool calls stay open when the turn ends",
        "runner/open_turn.py",
        "            if call_id not in answered\n",
        "            if call_id not in answered and not self.open_calls\n",
        "tests/integration/test_turns.py tests/integration/test_interrupts.py",
    ),
    Mutant(
        "an idempotency key that is not kept",
        "stores/sqlite/log.py",
        "        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, made, now)\n",
        "        pass\n",
        "tests/contract/test_stores.py tests/integration/test_idempotency.py",
    ),
    Mutant(
        "an idempotency key in a commit of its own",
        "stores/sqlite/log.py",
        "        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, made, now)\n",
        '        db.execute("COMMIT")\n        db.execute("BEGIN IMMEDIATE")\n'
        "        keys.keep(db, session.tenant_id, rules.inputs_of(session.id), once, made, now)\n",
        "tests/contract/test_stores.py tests/integration/test_idempotency.py tests/acceptance/test_durability.py",
    ),
    Mutant(
        "an import that is overtaken makes a second session",
        "stores/sqlite/imports.py",
        "                    found = keys.made(db, tenant_id, rules.IMPORTS, whole, now)\n",
        "                    found = None\n",
        "tests/contract/test_stores.py",
    ),
    Mutant(
        "an idempotency key that is not bound to the bytes of its import",
        "domain/idempotency.py",
        "    return sha256(request + digest).digest()\n",
        "    return sha256(request).digest()\n",
        "tests/unit/test_idempotency.py",
    ),
    Mutant(
        "another request with the same key joins the turn of the first",
        "stores/rules.py",
        "    if kept.fingerprint != once.fingerprint:\n        raise IdempotencyKeyReused\n",
        "",
        "tests/contract/test_stores.py tests/integration/test_idempotency.py",
    ),
    Mutant(
        "an interrupt that is not recorded",
        "stores/sqlite/log.py",
        '    db.execute(QUERIES["interrupt_turn"], {"turn_id": session.running_turn, "now": now})\n',
        "",
        "tests/contract/test_stores.py tests/integration/test_interrupts.py",
    ),
    Mutant(
        "a start takes up a turn that waits for client tools",
        "stores/sqlite/queries.sql",
        "t.outstanding IS NULL AND t.lease_until <= :by",
        "t.lease_until <= :by",
        "tests/contract/test_stores.py -k parked",
    ),
    Mutant(
        "a part of the outputs lets the turn go on",
        "stores/sqlite/client_tools.py",
        "        left.remove(output.event_id)\n",
        "        left.clear()\n",
        "tests/contract/test_stores.py tests/acceptance/test_client_tools.py -k parked",
    ),
    Mutant(
        "an interrupt that was recorded first does not keep a turn from parking",
        "stores/sqlite/client_tools.py",
        'if (row := db.execute(QUERIES["wants_stop"], {"id": fence.turn}).fetchone()) and row[0]:',
        "if False:",
        "tests/contract/test_stores.py -k wants_stopped",
    ),
    Mutant(
        "a lost wake-up that nobody makes up for",
        "live/channel.py",
        "        if log_head > (self.head or 0):\n            self.wake()\n",
        "        self.log_head = 0\n",
        "tests/unit/test_tail.py tests/integration/test_faults.py -k lost_announcement",
    ),
    Mutant(
        "a log in the order of the clock",
        "stores/sqlite/queries.sql",
        "ORDER BY sequence LIMIT :limit;",
        "ORDER BY created_at, sequence LIMIT :limit;",
        "tests/integration/test_faults.py -k clock",
    ),
    Mutant(
        "what was shown is thrown away when the model breaks off",
        "runner/open_turn.py",
        "        shown = self.answer.events(partial=True) if self.answer else ()\n",
        "        shown = self.answer.events(partial=True) if self.answer and self.interrupted else ()\n",
        "tests/integration/test_faults.py -k breaks_off",
    ),
    Mutant(
        "a model that hangs cannot be interrupted",
        "runner/open_turn.py",
        "        if first and self._cancellable and not self._committing:\n",
        "        if first and self._cancellable and not self._committing and self.answer is None:\n",
        "tests/integration/test_faults.py -k hangs",
    ),
    Mutant(
        "who joins in the middle of an output misses its beginning",
        "live/tail.py",
        "            self._ready.append(Node(None, snapshot, 0))\n",
        "            pass\n",
        "tests/unit/test_tail.py -k joins",
    ),
    Mutant(
        "a lease that is not renewed",
        "runner/worker.py",
        "for fence in await self._env.store.renew(fences[start : start + _RENEWED_AT_ONCE]):",
        "for fence in list[Fence]():",
        "tests/integration/test_leases.py",
    ),
    Mutant(
        "one tenant's turns before all others'",
        "domain/fair_queue.py",
        "                    self._lines[tenant] = self._lines.pop(tenant)\n",
        "                    pass\n",
        "tests/property/test_slots.py",
    ),
    Mutant(
        "an input refused after it was stored",
        "service/inputs.py",
        "            if parked if goes_on else session.running_turn is None:\n"
        "                room.take(weight(agent, session) + size)\n",
        "            pass\n",
        "tests/integration/test_slots.py -k refused",
    ),
    Mutant(
        "a turn that keeps its slot while it waits for another one",
        "runner/worker.py",
        "        self._slots.leave(turn)\n        self._launch_next()\n        try:\n",
        "        try:\n",
        "tests/integration/test_slots.py -k rests",
    ),
    Mutant(
        "an expired turn taken without a greater token",
        "stores/sqlite/queries.sql",
        "UPDATE turns SET fence = fence + 1, takes = takes + 1, lease_until = :lease_until",
        "UPDATE turns SET takes = takes + 1, lease_until = :lease_until",
        "tests/contract/test_stores.py tests/integration/test_leases.py",
    ),
    Mutant(
        "an expired turn taken while its owner renews it",
        "stores/sqlite/queries.sql",
        "t.outstanding IS NULL AND t.lease_until <= :by",
        "t.outstanding IS NULL AND :by",
        "tests/contract/test_stores.py tests/integration/test_leases.py",
    ),
    Mutant(
        "a hand-off that comes late takes the place of the turn that runs",
        "runner/worker.py",
        "        if known is not None and known.claim.fence.order > turn.claim.fence.order:\n",
        "        if False:\n",
        "tests/integration/test_leases.py -k hand_off",
    ),
    Mutant(
        "a queued input taken in a commit of its own",
        "stores/sqlite/log.py",
        "    return Appended(entries, next=",
        '    db.execute("COMMIT")\n    db.execute("BEGIN IMMEDIATE")\n    return Appended(entries, next=',
        "tests/contract/test_stores.py tests/integration/test_sqlite_faults.py",
    ),
    Mutant(
        "a steering input lost at the end of a turn",
        "stores/sqlite/log.py",
        "next=None if steers is None else",
        "next=None if steers is None or steers else",
        "tests/contract/test_stores.py tests/integration/test_waiting.py",
    ),
    Mutant(
        "a reader that is slow holds all that happens meanwhile",
        "api/live_stream.py",
        "                nodes = []  #",
        "                pass  #",
        "tests/unit/test_live_stream.py",
    ),
    Mutant(
        "no fence check on PostgreSQL",
        "stores/postgres/log.py",
        "        if call.fence != self.fence or (",
        "        if call.fence.turn != self.fence.turn or (",
        "tests/contract/test_stores.py -k postgres",
    ),
    Mutant(
        "a batch that does not lock what it appends to",
        "stores/postgres/queries.sql",
        "WHERE t.id = ANY(:turns::bigint[]) AND t.running AND t.outstanding IS NULL\nORDER BY s.id FOR UPDATE OF s, t;",
        "WHERE t.id = ANY(:turns::bigint[]) AND t.running AND t.outstanding IS NULL\nORDER BY s.id;",
        "tests/integration/test_postgres_races.py -k waits_for_whoever",
    ),
    Mutant(
        "a worker that dies is not replaced",
        "cli/supervisor.py",
        "            if self._stop.is_set():\n                return\n            if time",
        "            if code:\n                return\n            if time",
        "tests/acceptance/test_workers.py -k replaced",
    ),
    Mutant(
        "a commit in doubt counts as lost",
        "stores/postgres/pool.py",
        "if doubt is not None and not await self._committed(link.writer, link.mark):",
        "if doubt is not None:",
        "tests/integration/test_postgres_faults.py",
    ),
    Mutant(
        "nobody is told of commits",
        "stores/postgres/pool.py",
        "            self.on_commit(db.changed)\n",
        "            pass\n",
        "tests/integration/test_postgres_wakeups.py -k every_change",
    ),
    Mutant(
        "a server that has gone deaf waits for ever",
        "stores/postgres/wakeups.py",
        '                await self._ask(_NOTIFY, [_TO_ONE.format(self._node) + self._suffix], [""])\n',
        "                pass\n",
        "tests/integration/test_postgres_wakeups.py -k deaf",
    ),
    Mutant(
        "idle connections that may be deaf are kept",
        "stores/postgres/pool.py",
        "                self._distrust_idle()\n",
        "                pass\n",
        "tests/integration/test_postgres_faults.py -k deaf",
    ),
    Mutant(
        "a server remembers a session for a moment",
        "stores/postgres/sessions.py",
        "        return await self._read(lambda db: session_row(db, ref))\n",
        "        import time\n"
        '        known, key = self.__dict__.setdefault("_known", {}), (ref, int(time.monotonic() * 4))\n'
        "        if key not in known:\n"
        "            known[key] = await self._read(lambda db: session_row(db, ref))\n"
        "        return known[key]\n",
        "tests/acceptance/test_linearizable.py -k nothing",
    ),
    Mutant(
        "an interrupt that another server took is not looked for",
        "runner/worker.py",
        "            elif stands.interrupted:\n",
        "            elif stands.interrupted and not stands:\n",
        "tests/acceptance/test_two_nodes.py -k interrupt",
    ),
    Mutant(
        "a turn goes on whose session was deleted elsewhere",
        "runner/worker.py",
        "            if stands is None:\n                self._lose(turn, task)",
        "            if stands is None:\n                pass",
        "tests/acceptance/test_two_nodes.py -k deletion",
    ),
    Mutant(
        "a file is removed that another server is about to name",
        "stores/files.py",
        " and (not self._shared or self._is_old(self._path(name))):",
        ":",
        "tests/integration/test_files.py -k shared",
    ),
    Mutant(
        "great numbers of filters lose their last digits",
        "stores/postgres/metadata_filter.py",
        "THEN {_FLOAT}::bigint::numeric ELSE",
        "THEN {_FLOAT}::numeric ELSE",
        "tests/property/test_metadata_filter_postgres.py",
    ),
    Mutant(
        "a client that repeats a change whose outcome it does not know",
        "client/call.py",
        'return (method == "GET" or keyed) and',
        "return",
        "tests/unit/test_client_call.py tests/acceptance/test_client_faults.py",
    ),
    Mutant(
        "a call that is run again asks the sub-agent again",
        "stores/sqlite/sub_turns.py",
        "    if made is not None:\n",
        "    if made is not None and False:\n",
        "tests/contract/test_stores.py tests/integration/test_sub_agents.py tests/property/test_sub_turns.py",
    ),
    Mutant(
        "an interrupt that is not recorded for the turns below",
        "stores/sqlite/queries.sql",
        "WHERE below.turn_id <> :turn_id;",
        "WHERE below.turn_id <> :turn_id AND FALSE;",
        "tests/contract/test_stores.py tests/integration/test_sub_agents.py",
    ),
    Mutant(
        "metrics for whoever a proxy forwards",
        "api/metrics.py",
        "near and not any(name in call.headers for name in _FORWARDED)",
        "near",
        "tests/acceptance/test_metrics.py -k only_this_machine",
    ),
    Mutant(
        "metrics for other machines",
        "api/metrics.py",
        "client is not None and client[0] in _LOOPBACK",
        "client is not None",
        "tests/acceptance/test_metrics.py -k another_machine",
    ),
    Mutant(
        "what was said is in every trace",
        "telemetry/traces.py",
        "        if self._traces.content:\n            instructions",
        "        if True:\n            instructions",
        "tests/acceptance/test_traces.py -k one_trace_of_its_calls",
    ),
    Mutant(
        "a trace of its own for what goes on with a turn",
        "telemetry/traces.py",
        "return self.next_trace or super()",
        "return super()",
        "tests/acceptance/test_traces.py -k goes_on_in_its_trace",
    ),
    Mutant(
        "a secret in what a tool answers",
        "runner/dispatch.py",
        "_storable(overrides.masked(result, fixed.secrets))",
        "_storable(result)",
        "tests/unit/test_dispatch.py -k masked",
    ),
    Mutant(
        "a secret in the server's log",
        "logs.py",
        "for key, value in event.items()} if secrets else event\n",
        "for key, value in event.items()} if False else event\n",
        "tests/unit/test_logs.py",
    ),
    Mutant(
        "a fork without its files",
        "stores/sqlite/copies.py",
        "        for slice in self.files:\n",
        "        for slice in []:\n",
        "tests/contract/test_stores.py -k fork_has_the_files",
    ),
    Mutant(
        "a fork that hides what no summary of it covers",
        "stores/sqlite/queries.sql",
        "CASE WHEN hidden = 1 AND sequence > :covered THEN 0 ELSE hidden END",
        "CASE WHEN :covered < 0 THEN 0 ELSE hidden END",
        "tests/contract/test_stores.py -k before_a_summary",
    ),
    Mutant(
        "a file of an import whose bytes are others",
        "domain/portable.py",
        "        if not self.left and self._digest.hexdigest() != self._sha256:\n",
        "        if False:\n",
        "tests/unit/test_portable.py -k wrong",
    ),
)


def killed(mutant: Mutant, folder: Path) -> str | None:
    """The test that fails with the mutant, or None. Raises ValueError when its text is not there once."""
    file = folder / "src" / "sessile" / mutant.file
    source = file.read_text(encoding="utf-8")
    if source.count(mutant.old) != 1:
        raise ValueError(f"{mutant.name}: its text is in {mutant.file} {source.count(mutant.old)} times")
    file.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
        env = {**os.environ, "PYTHONPATH": str(folder / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no end within {_SECONDS} s"
    finally:
        file.write_text(source, encoding="utf-8")
    if done.returncode not in (0, 1):
        raise ValueError(f"{mutant.name}: its tests did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) \S*?([^/\s]+::\S+)", done.stdout, re.MULTILINE)
    return failed[1] if failed else "a test"


def main() -> int:
    """Try every mutant; the exit status is 1 when one survives."""
    parser = argparse.ArgumentParser(prog="python -m checks.mutants", description=__doc__)
    parser.add_argument("--only", help="mutants whose name holds this text")
    given = parser.parse_args()
    tried, survived = 0, 0
    with tempfile.TemporaryDirectory(prefix="sessile-mutants-") as made:
        folder = Path(made)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        for mutant in MUTANTS:
            if given.only and given.only not in mutant.name:
                continue
            killer = killed(mutant, folder)
            tried += 1
            survived += killer is None
            sys.stdout.write(f"{mutant.name}: {'SURVIVED' if killer is None else f'killed by {killer}'}\n")
            sys.stdout.flush()
    sys.stdout.write(f"{tried} mutants: {tried - survived} killed, {survived} survived\n")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
