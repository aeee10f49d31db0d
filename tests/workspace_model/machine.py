"""The model: people save, discard, clear, trash and copy; time passes, services sweep, and processes die, in any order.

At the end good luck returns: every promise is kept, and the sweeps find nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from random import Random
from typing import Any

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from atelier.asset.v1 import asset_control_service_pb2 as control
from atelier.asset.v1 import asset_service_pb2, upload_service_pb2
from atelier.library.v1 import library_service_pb2 as library
from atelier.type.v1 import media_pb2
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from service_kit.capabilities import LeaseClaims
from service_kit.errors import AtelierError
from service_kit.identity import KeyKind, Owner
from service_kit.ids import new_id
from service_kit.sweeping import sweep_all
from tests.model.house import Running
from tests.model.processes import Gone
from tests.model.workers import PNG
from tests.workspace_model.house import House
from tests.workspace_model.invariants import SEEN, State, Witness

ANN, BOB = Owner("default", "ann"), Owner("default", "bob")
TICK = timedelta(milliseconds=1)
_LIBRARY, _ASSETS = "/atelier.library.v1.LibraryService/", "/atelier.asset.v1.AssetService/"
_FAULTS = ("lost", "unanswered", "repeated", "late")
_PAUSES = (1, 1, 1, 30, 130, 700, 4000, 86_400, 86_400 * 3, 86_400 * 8)
_BAD_LUCK, _AT_ONCE = 0.3, 0.5
Work = Coroutine[Any, Any, object]


class Machine(RuleBasedStateMachine):
    """One example: a house whose databases begin empty."""

    house: House
    loop: asyncio.Runner
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.witness = Witness(self.house)
        self.jobs: list[tuple[Owner, str, dict[int, str]]] = []
        self.keys: list[str] = []
        self.state: State
        self.steps = 0
        self.began = self.broken = False

    @initialize()
    def begin(self) -> None:
        self.loop.run(self._begin())
        self.began = True

    async def _begin(self) -> None:
        await self.house.forget_everything()
        await self.house.start_all()
        self.state = await self.witness.check()
        for owner in (ANN, ANN, BOB):
            await self.publish(Random(1), owner)
        self.state = await self.witness.check()

    @rule(number=st.integers(0, 2**64 - 1))
    def happens(self, number: int) -> None:
        # Hypothesis likes equal and small numbers, which would be the same few deeds again and again.
        self.steps += 1
        self.broken = True
        self.loop.run(self._happens(Random(f"{number} {self.steps}")))
        self.broken = False

    async def _happens(self, dice: Random) -> None:
        if dice.random() < _BAD_LUCK:
            running = dice.choice(self.house.running)
            running.process.fuse = dice.randrange(1, 16)
            note(f"{running.process.name} dies at its point number {running.process.fuse}")
        names = dice.choices(*_DEEDS, k=dice.choice((2, 3)) if dice.random() < _AT_ONCE else 1)
        note(" + ".join(names))
        self.seen.update(names)
        await asyncio.gather(
            *(self._unless_gone(getattr(self, name)(dice, dice.choice((ANN, ANN, BOB)))) for name in names)
        )
        for running in self.house.assets:
            # What goes on although the call that began it has gone is part of this step.
            await self._unless_gone(running.do(lambda service: service.unbroken.close()))
        await self.house.restart_dead()
        self.state = await self.witness.check()
        self.house.clock.advance(TICK)

    async def _unless_gone(self, work: Work) -> None:
        try:
            await work
        except (Gone, AtelierError) as error:
            self.seen[type(error).__name__] += 1

    # --- who and what -----------------------------------------------------------------------------------------------

    async def ask(self, running: Running, path: str, request: Any, owner: Owner) -> Any:
        return await running.call(path, request, self.house.caller(owner))

    def assets_of(self, dice: Random, owner: Owner, most: int) -> list[str]:
        """Return some assets of an owner, gone or not, and sometimes one of somebody else."""
        mine = sorted(row.asset_id for row in self.state.assets.values() if row.owner_id == owner.owner_id)
        some = dice.sample(mine, min(len(mine), dice.randint(1, most)))
        return some + ([dice.choice(sorted(self.state.assets))] if dice.random() < 0.1 and self.state.assets else [])

    def items_of(self, dice: Random, owner: Owner) -> list[str]:
        mine = sorted(row.item_id for row in self.state.items.values() if row.owner_id == owner.owner_id)
        return dice.sample(mine, min(len(mine), dice.randint(1, 2)))

    def library(self, dice: Random) -> Running:
        return dice.choice(self.house.libraries)

    def asset(self, dice: Random) -> Running:
        return dice.choice(self.house.assets)

    # --- deeds ------------------------------------------------------------------------------------------------------

    async def deliver(self, dice: Random, owner: Owner) -> None:
        """A worker uploads outputs of a job, which are seen once it is settled."""
        job_id, receipts = new_id(), dict[int, str]()
        self.jobs.append((owner, job_id, receipts))
        expires_at = self.house.clock.now() + timedelta(minutes=30)
        lease = LeaseClaims(job_id, 0, 1, owner, 3, 1 << 20, ("image",), (), expires_at)
        for index in range(dice.randint(1, 3)):
            files = [_file(f"picture {dice.randrange(4)}")]
            if dice.random() < 0.4:
                files.append(_file("thumb", media_pb2.RENDITION_KIND_THUMB_256))
            request = upload_service_pb2.UploadOutputRequest(asset_index=index, files=files)
            capabilities = self.house.capabilities
            reply = await self.asset(dice).call_as_worker(
                "/atelier.asset.v1.UploadService/UploadOutput", request, capabilities.sign_lease(lease), capabilities
            )
            receipts[index] = reply.receipt

    async def settle(self, dice: Random, owner: Owner) -> None:
        """The router says how a job ended, perhaps again."""
        if not self.jobs:
            return
        whose, job_id, receipts = dice.choice(self.jobs)
        request = control.SettleRequest(job_id=job_id)
        request.owner.tenant_id, request.owner.owner_id = whose.tenant_id, whose.owner_id
        for index, receipt in receipts.items():
            if dice.random() < 0.9:
                request.winners.add(asset_index=index, receipt=receipt).provenance.prompt = f"of {job_id}"
        caller = self.house.caller(Owner("default", "router"), KeyKind.SERVICE)
        await self.asset(dice).call("/atelier.asset.v1.AssetControlService/Settle", request, caller)

    async def publish(self, dice: Random, owner: Owner) -> None:
        await self.deliver(dice, owner)
        latest, self.jobs = self.jobs, self.jobs[-1:]
        await self.settle(dice, owner)
        self.jobs = latest

    async def save(self, dice: Random, owner: Owner) -> None:
        key = dice.choice(["", "", new_id(), *self.keys[-2:]])
        self.keys.append(key)
        request = library.SaveToLibraryRequest(asset_ids=self.assets_of(dice, owner, 4), idempotency_key=key)
        if request.asset_ids:
            await self.ask(self.library(dice), _LIBRARY + "SaveToLibrary", request, owner)

    async def clear(self, dice: Random, owner: Owner) -> None:
        asset_ids = self.assets_of(dice, owner, 4)
        reply = await self.ask(
            self.library(dice), _LIBRARY + "ClearAssets", library.ClearAssetsRequest(asset_ids=asset_ids), owner
        )
        for result in reply.results:
            self.seen["cleared" if result.HasField("item") else "not cleared"] += 1

    async def clear_workspace(self, dice: Random, owner: Owner) -> None:
        token = ""
        while True:
            request = library.ClearWorkspaceRequest(page_size=2, page_token=token)
            token = (await self.ask(self.library(dice), _LIBRARY + "ClearWorkspace", request, owner)).next_page_token
            if not token:
                return

    async def discard(self, dice: Random, owner: Owner) -> None:
        asset_ids = self.assets_of(dice, owner, 3)
        self.witness.discarded |= {name for name in asset_ids if self.state.assets[name].owner_id == owner.owner_id}
        request = asset_service_pb2.DiscardAssetsRequest(asset_ids=asset_ids)
        await self.ask(self.asset(dice), _ASSETS + "DiscardAssets", request, owner)

    async def extend(self, dice: Random, owner: Owner) -> None:
        request = asset_service_pb2.ExtendExpiryRequest(asset_ids=self.assets_of(dice, owner, 3))
        for result in (await self.ask(self.asset(dice), _ASSETS + "ExtendExpiry", request, owner)).results:
            if result.HasField("asset"):
                self.seen["extended"] += 1

    async def move(self, dice: Random, owner: Owner) -> None:
        """Put items into the trash, take them out, or delete them for good."""
        item_ids = self.items_of(dice, owner)
        moves = (library.ITEM_MOVE_TRASH, library.ITEM_MOVE_TRASH, library.ITEM_MOVE_RESTORE, library.ITEM_MOVE_DELETE)
        move = dice.choice(moves)
        if move == library.ITEM_MOVE_DELETE:
            self.witness.deleted |= {self.state.items[item_id].asset_id for item_id in item_ids}
        if item_ids:
            request = library.ChangeItemsRequest(item_ids=item_ids, move=move)
            await self.ask(self.library(dice), _LIBRARY + "ChangeItems", request, owner)

    async def copy_back(self, dice: Random, owner: Owner) -> None:
        item_ids = self.items_of(dice, owner)
        request = library.CopyToWorkspaceRequest(item_ids=item_ids)
        for result in (await self.ask(self.library(dice), _LIBRARY + "CopyToWorkspace", request, owner)).results:
            self.seen["copied back" if result.HasField("asset") else "not copied back"] += 1

    async def look(self, dice: Random, owner: Owner) -> None:
        """An asset service expires what is due, and deletes what is to go."""
        await self.asset(dice).do(lambda service: service.expiry.look())

    async def work(self, dice: Random, owner: Owner) -> None:
        """A library pays what it owes, and deletes what is to go."""
        running = self.library(dice)
        await running.do(lambda service: service.deliveries.deliver_due())
        await running.do(lambda service: service.removal.sweep())

    async def sweep(self, dice: Random, owner: Owner) -> None:
        """A service compares its bucket with its rows. It must find nothing: no rule was broken before."""
        running = dice.choice(self.house.running)
        found = await running.do(lambda service: sweep_all(service.sweep.page, dry_run=False))
        assert not found, "a sweep beside everything else finds nothing"

    async def arrive_late(self, dice: Random, owner: Owner) -> None:
        if self.house.hop.late:
            await self.house.hop.deliver_late(dice.randrange(12))

    async def trouble_on_the_way(self, dice: Random, owner: Owner) -> None:
        self.house.hop.faults.append(dice.choice(_FAULTS))

    async def wait(self, dice: Random, owner: Owner) -> None:
        self.house.clock.advance(timedelta(seconds=dice.choice(_PAUSES)))

    # --- the end ----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if self.began:
            self.loop.run(self._end())

    async def _end(self) -> None:
        try:
            if not self.broken:
                self.house.hop.faults.clear()
                for running in self.house.running:
                    running.process.fuse = None
                while self.house.hop.late:
                    await self._unless_gone(self.house.hop.deliver_late(0))
                await self._settle_down()
                await self._let_time_pass()
        finally:
            await self.house.stop_all()

    async def _settle_down(self) -> None:
        """Let holds and claims end, and everybody finish: then nothing waits, and the marks say what is saved."""
        for _ in range(3):
            self.house.clock.advance(timedelta(hours=2))
            for running in self.house.libraries:
                await running.do(lambda service: service.deliveries.deliver_due())
                await running.do(lambda service: service.removal.sweep())
            for running in self.house.assets:
                await running.do(lambda service: service.expiry.look())
        self.state = await self.witness.check()
        assert not self.state.outbox and not self.state.holds
        assert {blob.state for blob in self.state.blobs.values()} <= {"live"}
        saved = {row.asset_id: row.item_id for row in self.state.kept.values() if row.trashed_at is None}
        for asset in self.state.assets.values():
            if asset.state == SEEN and asset.source != "item":
                assert asset.saved_item_id == saved.get(asset.asset_id, "")
        await self._sweep_finds_nothing()

    async def _let_time_pass(self) -> None:
        """When everything has expired, only the library is there, and uploads of jobs that nobody settled."""
        self.house.clock.advance(timedelta(days=200))
        for running in self.house.assets * 2:
            await running.do(lambda service: service.expiry.look())
        self.state = await self.witness.check()
        left = {key for bucket, key in self.house.blobs.files if bucket == WORKSPACE_BUCKET}
        assert left <= {row.key for row in self.state.uploads}, "expiry removes row and blob"
        live = {blob.key for blob in self.state.blobs.values()}
        assert {key for bucket, key in self.house.blobs.files if bucket == LIBRARY_BUCKET} == live
        await self._sweep_finds_nothing()

    async def _sweep_finds_nothing(self) -> None:
        for running in (self.house.assets[0], self.house.libraries[0]):
            assert await running.do(lambda service: sweep_all(service.sweep.page, dry_run=True)) == []


def _file(text: str, rendition: media_pb2.RenditionKind.ValueType = media_pb2.RENDITION_KIND_UNSPECIFIED) -> Any:
    data = PNG + text.encode()
    return upload_service_pb2.OutputFile(rendition=rendition, sha256=hashlib.sha256(data).hexdigest(), data=data)


_WEIGHTS = {
    **{"publish": 3, "deliver": 1, "settle": 2, "save": 4, "clear": 4, "clear_workspace": 1, "discard": 3, "extend": 1},
    **{
        "move": 4,
        "copy_back": 2,
        "look": 3,
        "work": 3,
        "sweep": 2,
        "arrive_late": 1,
        "trouble_on_the_way": 2,
        "wait": 3,
    },
}
_DEEDS = (list(_WEIGHTS), list(_WEIGHTS.values()))
