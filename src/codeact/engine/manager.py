"""Whose sessions there are, how many there may be, and when they end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import secrets
import sqlite3
import time
from collections.abc import Iterable

from codeact import contracts
from codeact.engine.backends import Backends
from codeact.engine.errors import Refused, full, not_found
from codeact.engine.gate import Gate
from codeact.engine.keys import Keys, Tenant
from codeact.engine.ledger import Ledger
from codeact.engine.metrics import Metrics
from codeact.engine.options import Options
from codeact.engine.session import EngineSession
from codeact.engine.tools import ClientTool
from codeact.errors import SandboxError, StateLost
from codeact.sandbox.api import NewSession
from codeact.sandbox.limits import Limits

logger = logging.getLogger("codeact.engine")

_STOPPING = 12.0  # seconds for code to stop once it was interrupted: longer than a sandbox takes to kill it
_PRUNE = 3600.0

SHUT_DOWN = "the engine was shut down"

Name = tuple[str, str]  # of the key, of the session


class Manager:
    """See the module. Sessions are found by the key they belong to and their id; others' do not exist for a key."""

    def __init__(self, kind: str, options: Options, database: sqlite3.Connection) -> None:
        self.options = options
        self.metrics = Metrics()
        self.keys = Keys(database)
        self.ledger = Ledger(database)
        self.gate = Gate(options.max_executions)
        self.draining = False
        self._backends = Backends(kind, options)
        self._starts = Gate(options.max_starts)
        self._sessions: dict[Name, EngineSession] = {}
        self._opening: dict[Name, tuple[NewSession, asyncio.Task[EngineSession]]] = {}
        self._forking: dict[str, int] = {}  # copies on their way, by key
        self._ending: set[asyncio.Task[None]] = set()
        self._reaper: asyncio.Task[None] | None = None
        self.metrics.sessions.set_function(lambda: len(self._sessions))
        self.metrics.running.set_function(lambda: self.gate.held)
        self.metrics.waiting.set_function(lambda: sum(s.waiting for s in self._sessions.values()))

    # --- finding ---

    def find(self, tenant: Tenant, id: str) -> EngineSession:
        """Raises StateLost for one that has ended without its client's wish, Refused where there was none."""
        session = self._sessions.get((tenant.id, id))
        if session is not None:
            session.touch()
            return session
        why = self.ledger.lost(tenant.id, id)
        if why is not None:
            raise _lost(id, why)
        raise not_found(f"there is no session {id!r}")

    def owned(self, tenant: Tenant) -> list[EngineSession]:
        return [session for (key, _), session in self._sessions.items() if key == tenant.id]

    # --- making ---

    async def create(self, tenant: Tenant, asked: NewSession) -> tuple[EngineSession, bool]:
        """A session, and whether this made it. Two who ask for one id at once get one session."""
        if self.draining:
            raise Refused(503, "draining", "the engine is being stopped", 5)
        id = asked.id or secrets.token_hex(8)
        name = (tenant.id, id)
        session = self._sessions.get(name)
        if session is None and name in self._opening:
            there, task = self._opening[name]
            _check_same(id, there, asked)
            session = await asyncio.shield(task)
        if session is not None:
            _check_same(id, session.asked, asked)
            session.touch()
            return session, False
        why = self.ledger.lost(*name)
        if why is not None:
            raise _lost(id, why)
        self._check_room(tenant, 1)
        task = asyncio.create_task(self._open(tenant, id, asked))
        self._opening[name] = (asked, task)
        task.add_done_callback(lambda _: self._opening.pop(name, None))
        return await asyncio.shield(task), True  # whoever asked may go away: others may wait for it too

    async def create_old(self, tenant: Tenant, id: str) -> tuple[EngineSession, bool, str | None]:
        """For the original system's clients, who never make a session: it, whether it is new, and what to tell of it.

        Where its predecessor is lost, a new one takes its place, and that is told.
        """
        told = None
        with contextlib.suppress(Refused):
            try:
                return self.find(tenant, id), False, None
            except StateLost:
                why = self.ledger.lost(tenant.id, id)
                told = f"[State lost: {why}. All variables and files of this session are gone. "
                told += "This code ran in a new kernel.]\n"
                self.ledger.forget(tenant.id, id)
        session, made = await self.create(tenant, NewSession.model_construct(id=id))
        return session, made, told

    def _check_room(self, tenant: Tenant, count: int) -> None:
        """Raises Refused where the engine or the key has no room for so many more."""
        on_the_way = len(self._opening) + sum(self._forking.values())
        if len(self._sessions) + on_the_way + count > self.options.max_sessions:
            raise full("sessions", f"the engine has all of its {self.options.max_sessions} sessions; delete one", 5)
        if tenant.max_sessions is not None:
            own = len(self.owned(tenant)) + sum(key == tenant.id for key, _ in self._opening)
            if own + self._forking.get(tenant.id, 0) + count > tenant.max_sessions:
                raise full("quota", f"this key has all of its {tenant.max_sessions} sessions; delete one", 5)

    async def _open(self, tenant: Tenant, id: str, asked: NewSession) -> EngineSession:
        began = time.monotonic()
        outcome = "failed"
        try:
            async with asyncio.timeout(self.options.max_wait), self._starts.slot(tenant.owner):
                sandbox, limits = self._backends.open(asked)
                try:
                    inner = await sandbox.session(tools=[ClientTool(spec) for spec in asked.tools])
                    for file in asked.files:
                        await inner.put(file.path, io.BytesIO(file.data))
                    session = self._add(tenant, id, asked, limits, inner)
                except BaseException:
                    await sandbox.close()
                    raise
            outcome = "ok"
            return session
        except TimeoutError as error:
            raise full("wait", f"no session could be started within {self.options.max_wait:g} seconds") from error
        finally:
            self.metrics.starts.labels(outcome).inc()
            self.metrics.start.observe(time.monotonic() - began)

    def _add(
        self, tenant: Tenant, id: str, asked: NewSession, limits: Limits, inner: contracts.Session
    ) -> EngineSession:
        """Write it down, and count it in."""
        self.ledger.begin(tenant.id, id)
        session = EngineSession(id, tenant, asked, limits, inner, self)
        self._sessions[tenant.id, id] = session
        return session

    async def fork(self, session: EngineSession, count: int, ids: Iterable[str] | None) -> list[EngineSession]:
        """Copies of a session, all or none."""
        tenant = session.tenant
        if self.draining:
            raise Refused(503, "draining", "the engine is being stopped", 5)
        chosen = list(ids) if ids is not None else [secrets.token_hex(8) for _ in range(count)]
        if len(set(chosen)) != count:
            raise Refused(422, "usage", f"name {count} different ids, or none")
        for id in chosen:
            if (tenant.id, id) in self._sessions or (tenant.id, id) in self._opening:
                raise Refused(409, "exists", f"there is a session {id!r} already")
            if (why := self.ledger.lost(tenant.id, id)) is not None:
                raise _lost(id, why)
        self._check_room(tenant, count)
        self._forking[tenant.id] = self._forking.get(tenant.id, 0) + count
        try:
            async with session.alone() as inner:
                copies = await inner.forks(count)
        except SandboxError as error:
            if type(error) is not SandboxError:
                raise
            raise Refused(409, "not_forkable", str(error)) from error
        finally:
            self._forking[tenant.id] -= count
        made: list[EngineSession] = []
        try:
            for id, copy in zip(chosen, copies, strict=True):
                if (tenant.id, id) in self._sessions or (tenant.id, id) in self._opening:
                    raise Refused(409, "exists", f"there is a session {id!r} already")
                made.append(self._add(tenant, id, session.asked, session.limits, copy))
        except BaseException:
            for one in made:
                await self.delete(one)
            await asyncio.gather(*(copy.close() for copy in copies))
            raise
        return made

    # --- ending ---

    async def delete(self, session: EngineSession) -> None:
        """By its client's wish: nothing is remembered of it."""
        await self._end(session, "it was deleted", "deleted")

    def forget(self, tenant: Tenant, id: str) -> None:
        """The client has taken note that a session is lost: its id is free again. Raises Refused for an unknown one."""
        if not self.ledger.forget(tenant.id, id):
            raise not_found(f"there is no session {id!r}")

    async def _end(self, session: EngineSession, why: str, cause: str) -> None:
        name = (session.tenant.id, session.id)
        if self._sessions.get(name) is not session:
            return
        del self._sessions[name]
        self.metrics.ended.labels(cause).inc()
        try:
            if cause == "deleted":
                self.ledger.forget(*name)
            else:
                self.ledger.end(*name, why)
        except sqlite3.Error as error:
            logger.error("session %s: its end could not be written down: %s", session.id, error)
        await session.close(why)

    async def start(self) -> None:
        self._reaper = asyncio.create_task(self._reap())

    async def _reap(self) -> None:
        """End sessions that nobody uses, that are too old, or whose key is gone."""
        pause = max(0.05, min(5.0, self.options.idle / 10, self.options.age / 10))
        pruned = time.monotonic()
        while True:
            await asyncio.sleep(pause)
            try:
                keys = self.keys.ids() | {""}
                for session in list(self._sessions.values()):
                    session.tidy()
                    if session.tenant.id not in keys:
                        self._end_soon(session, "its key was removed", "key")
                    elif session.age > self.options.age:
                        self._end_soon(session, f"it was older than {self.options.age:g} seconds", "age")
                    elif session.idle > self.options.idle:
                        self._end_soon(session, f"nobody used it for {self.options.idle:g} seconds", "idle")
                if time.monotonic() - pruned > _PRUNE:
                    pruned = time.monotonic()
                    self.ledger.prune()
            except sqlite3.Error as error:
                logger.error("the engine's state cannot be read: %s", error)

    def _end_soon(self, session: EngineSession, why: str, cause: str) -> None:
        task = asyncio.create_task(self._end(session, why, cause))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def drain(self) -> None:
        """Take nothing new; let running code finish or interrupt it, and have everybody told."""
        self.draining = True
        for session in self._sessions.values():
            session.wake()
            while session.waiting and await session.interrupt_waiting("the engine is being stopped"):
                pass
        if not await self._quiet(self.options.drain):
            for session in list(self._sessions.values()):
                if session.tasks:
                    with contextlib.suppress(Exception):
                        await asyncio.wait_for(session.interrupt(why="the engine is being stopped"), 5)
            await self._quiet(_STOPPING)

    async def _quiet(self, limit: float) -> bool:
        tasks = [task for session in self._sessions.values() for task in session.tasks]
        tasks += [task for _, task in self._opening.values()]  # type: ignore[misc]
        if not tasks:
            return True
        _, pending = await asyncio.wait(tasks, timeout=limit)
        return not pending

    async def close(self) -> None:
        """End every session, and the sandboxes."""
        self.draining = True
        if self._reaper is not None:
            self._reaper.cancel()
        await asyncio.gather(
            *(self._end(session, SHUT_DOWN, "shutdown") for session in list(self._sessions.values())),
            *self._ending,
            return_exceptions=True,
        )
        await self._backends.close()


def _lost(id: str, why: str) -> StateLost:
    gone = "Its variables and files are gone. Delete it and make it anew"
    return StateLost(f"state lost: session {id!r} has ended: {why}. {gone}")


def _check_same(id: str, there: NewSession, asked: NewSession) -> None:
    """Raises Refused where a session of that id cannot stand for the one that was asked for."""
    if asked.exclusive:
        raise Refused(409, "exists", f"there is a session {id!r} already")
    without = {"id", "exclusive"}
    if there.model_dump(exclude=without) != asked.model_dump(exclude=without):
        raise Refused(409, "differs", f"there is a session {id!r} already, with other options")
