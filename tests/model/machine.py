"""The model: deeds of clients, workers, services and bad luck in any order, from an empty house to one that is empty.

After every step `invariants` checks both databases and the blobs. At the end good luck returns: every job ends, and
when the workspace's time is over nothing is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from atelier.asset.v1 import upload_service_pb2
from router_service.domain import FINAL
from tests.model.clients import Clients
from tests.model.house import LEASE_TTL
from tests.model.invariants import OWNERS
from tests.model.processes import Gone
from tests.model.services import Services
from tests.model.workers import PNG, SLOTS, Worker
from tests.model.working import Working
from tests.model.world import Work, only

_ROUNDS = 40
# How often a power cut is set up before a deed.
_BAD_LUCK = 0.3
_ANY = st.integers(0, 11)


def _deeds(*parts: type) -> list[str]:
    """Return the names of the deeds of some classes, each as often as it weighs; in a fixed order."""
    methods = [(name, method) for part in parts for name, method in vars(part).items()]
    return [name for name, method in methods for _ in range(getattr(method, "weight", 0))]


_DEEDS = _deeds(Services, Working, Clients)


class Machine(Clients, Services, Working):
    """All deeds."""

    @initialize(kinds=st.lists(_ANY, min_size=1, max_size=4), starts=st.booleans())
    def begin(self, kinds: list[int], starts: bool) -> None:
        self.loop.run(self._begin())
        for index, kind in enumerate(kinds):
            self.step(self.send([self.router(0)], index, kind, 9))
        if starts:
            self.step(self.settle_due([self.router(0)]))
            self.step(self.lease_round(self.router(0)))
            for number in range(len(kinds)):
                work = self.acknowledge(number, 0, 0)
                if work is not None:
                    self.step(work)

    async def _begin(self) -> None:
        await self.house.forget_everything()
        await self.house.start_all()
        # The reapers believe what they see.
        self.house.clock.advance(LEASE_TTL)
        self.workers = [Worker(name, self.house) for name in ("one", "two")]
        for index, worker in enumerate(self.workers):
            await worker.connect(self.router(index), [])
            await worker.credit(SLOTS)
        for owner in OWNERS:
            data = PNG + f"of {owner.owner_id}".encode()
            request = upload_service_pb2.CreateUploadRequest(data=data, size_bytes=len(data))
            path = "/atelier.asset.v1.UploadService/CreateUpload"
            reply = await self.as_owner(self.assets(0), path, only(request), owner)
            self.references[owner].append(reply.asset.asset_id)
        self.state = await self.watcher.check()

    @rule(number=st.integers(0, 2**64 - 1))
    def happens(self, number: int) -> None:
        # Hypothesis likes equal and small numbers, which would be the same few deeds again and again.
        self.steps += 1
        for line in self.roll(Random(f"{number} {self.steps}")):
            note(line)

    def roll(self, dice: Random) -> Iterator[str]:
        """Do what the dice say. Gives lines that tell of it, each before it happens."""
        if dice.random() < _BAD_LUCK:
            yield self.cut_the_power(dice.randrange(12), dice.randrange(12))
        what, a, b, c = dice.choice(_DEEDS), dice.randrange(12), dice.randrange(12), dice.randrange(12)
        yield f"{what}({a}, {b}, {c})"
        work = getattr(self, what)(a, b, c)
        if work is not None:
            self.seen[what] += 1
            self.step(work)

    def teardown(self) -> None:
        if self.workers:
            self.loop.run(self._end())

    async def _end(self) -> None:
        try:
            if not self.broken:
                await self._drain()
                await self._expire()
        finally:
            for worker in self.workers:
                await worker.disconnect()
            await self.house.stop_all()

    async def _drain(self) -> None:
        """Let good luck return: every job ends, and nothing is left to do."""
        self.house.hop.faults.clear()
        for running in self.house.routers + self.house.asset_services:
            running.process.fuse = None
        while self.house.hop.late:
            await self.deliver_late(0)
        for _ in range(_ROUNDS):
            self.state = await self.watcher.check()
            unfinished = [job for job in self.state.jobs.values() if job.state not in FINAL]
            if not unfinished and not self.state.outbox:
                return
            await self._good_round()
        raise AssertionError(f"not over after {_ROUNDS} good rounds: {unfinished}, {self.state.outbox}")

    async def _good_round(self) -> None:
        for worker in self.workers:
            await self._unless_gone(self._be_ready(worker))
        for running in self.house.routers:
            await running.do(lambda service: service.reaper.round())
            while await running.do(lambda service: service.settlement.send_due()):
                continue
            await running.do(lambda service: service.dispatch.lease_waiting())
        await self.hear()
        for worker in self.workers:
            await self._unless_gone(self._do_all(worker))
        self.house.clock.advance(timedelta(seconds=8))

    async def _unless_gone(self, work: Work) -> None:
        try:
            await work
        except Gone:
            # A worker that was away for long, or said too much, is sent away once more, and comes again.
            return

    async def _be_ready(self, worker: Worker) -> None:
        if not worker.connected:
            await worker.connect(self.router(0), list(worker.leases))
        await worker.credit(SLOTS - len(worker.leases))

    async def _do_all(self, worker: Worker) -> None:
        if worker.connected:
            await worker.heartbeat(list(worker.leases))
            for leased in list(worker.leases.values()):
                self.state = await self.look()
                await self.say_started(worker, leased)
                await self.say_outcome(worker, leased, "good")

    async def _expire(self) -> None:
        """Let the workspace's time pass: then no row is without its blob, and no blob is left."""
        for row in self.state.holds:
            await self.release(self.assets(0), row.holder)
        self.house.clock.advance(timedelta(days=8))
        for running in self.house.asset_services * 2:
            await running.do(lambda service: service.expiry.look())
        self.state = await self.watcher.check()
        assert not self.house.blobs.files, "what nobody has any more is deleted"
        assert not self.state.uploads
        assert {row.state for row in self.state.assets.values()} <= {"removed"}
