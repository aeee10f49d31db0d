"""What the router keeps of keys, sign-in codes and who changed them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from router_service.identity import BOOTSTRAP_KEYS, Identities
from router_service.storage.identity_tables import api_keys, audit
from router_service.storage.keys import Keys, SignInCode, StoredKey
from router_service.storage.limits import Allowance
from router_service.storage.metadata import metadata
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.erasure import Erased
from service_kit.errors import FailedPrecondition
from service_kit.identity import KeyKind, Owner
from service_kit.keyring import Keyrings

ANN, BOB = Owner("t", "ann"), Owner("t", "bob")
SECOND = timedelta(seconds=1)


def key(key_id: str, clock: ManualClock, **changes: Any) -> StoredKey:
    made = StoredKey(key_id, f"hash-{key_id}", KeyKind.USER, KeyKind.USER, ANN, "my key", None, clock.now(), None, None)
    return dataclasses.replace(made, **changes)


def session(key_id: str, clock: ManualClock, **changes: Any) -> StoredKey:
    return key(key_id, clock, **{"kind": KeyKind.SESSION, "parent_key_id": "parent", **changes})


@pytest.fixture
def db(open_database: Callable[[str], Database]) -> Database:
    return open_database("router")


async def test_a_key_comes_back_as_it_was(db: Database, clock: ManualClock) -> None:
    plain, rich = key("k1", clock), key("k2", clock, owner=BOB, expires_at=clock.now() + SECOND, parent_key_id="k1")
    async with db.write() as tx:
        keys = Keys(tx)
        for one in (plain, rich):
            await keys.add(one)
        assert await keys.find("k1") == plain
        assert await keys.find("k2") == await keys.find_live("k2") == rich
        assert await keys.find("unknown") is None
        await keys.set_allowance("k1", Allowance(60, 3, 2))
        assert await keys.find("k1") == dataclasses.replace(plain, allowance=Allowance(60, 3, 2))
        clock.advance(SECOND)
        assert await keys.find("k2") == rich
        assert await keys.find_live("k2") is None
        assert await keys.find_live("unknown") is None


async def test_keys_are_listed_newest_first_page_by_page(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        keys = Keys(tx)
        for key_id, owner in (("k1", ANN), ("k2", BOB)):
            await keys.add(key(key_id, clock, owner=owner))
        clock.advance(SECOND)
        await keys.add(key("k0", clock))
        everything = await keys.newest(owner_id=None, before=None, limit=9)
        assert [one.key_id for one in everything] == ["k0", "k2", "k1"]
        place = (everything[1].created_at, everything[1].key_id)
        assert [one.key_id for one in await keys.newest(owner_id=None, before=place, limit=9)] == ["k1"]
        assert [one.key_id for one in await keys.newest(owner_id=None, before=None, limit=1)] == ["k0"]
        assert [one.key_id for one in await keys.newest(owner_id="ann", before=None, limit=9)] == ["k0", "k1"]
        assert await keys.newest(owner_id="nobody", before=None, limit=9) == []


async def test_a_revoked_key_takes_its_sessions_with_it_and_keeps_its_time(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        keys = Keys(tx)
        await keys.add(key("parent", clock))
        await keys.add(session("s1", clock))
        await keys.add(key("other", clock))
        assert await keys.find_live("s1") is not None
        await keys.revoke("parent")
        clock.advance(SECOND)
        await keys.revoke("parent")
        for key_id in ("parent", "s1"):
            gone = await keys.find(key_id)
            assert gone is not None
            assert gone.revoked_at == clock.now() - SECOND
            assert await keys.find_live(key_id) is None
        assert await keys.find_live("other") is not None


async def test_the_keys_revoked_last_are_told_newest_first_as_long_as_they_are_news(
    db: Database, clock: ManualClock
) -> None:
    for key_id in ("k1", "k2", "k3"):
        async with db.write() as tx:
            keys = Keys(tx)
            await keys.add(key(key_id, clock))
            await keys.add(session(f"{key_id}-session", clock, parent_key_id=key_id))
            if key_id != "k3":
                await keys.revoke(key_id)
        clock.advance(SECOND)
    async with db.read() as tx:
        keys = Keys(tx)

        async def told(window: timedelta, **page: Any) -> list[str]:
            return [key_id for _, key_id in await keys.revoked_within(window, **{"before": None, "limit": 10} | page)]

        assert await told(SECOND * 10) == ["k2-session", "k2", "k1-session", "k1"]
        assert await told(SECOND * 10, limit=2) == ["k2-session", "k2"]
        assert await told(SECOND * 2.5) == ["k2-session", "k2"]
        assert await told(SECOND * 2) == []
        # Those of one moment, too, are each on one page.
        (first,) = await keys.revoked_within(SECOND * 10, before=None, limit=1)
        assert await told(SECOND * 10, before=first) == ["k2", "k1-session", "k1"]


async def test_a_session_dies_with_its_key(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        keys = Keys(tx)
        await keys.add(key("parent", clock, expires_at=clock.now() + SECOND))
        await keys.add(session("s1", clock))
        clock.advance(SECOND)
        assert await keys.find_live("s1") is None


async def test_a_code_is_used_once(db: Database, clock: ManualClock) -> None:
    code = SignInCode("k1", ANN, KeyKind.USER, clock.now() + SECOND, expired=False)
    async with db.write() as tx:
        keys = Keys(tx)
        await keys.add(key("k1", clock))
        for name in ("one", "two"):
            await keys.add_code(name, code, created_at=clock.now(), expires_at=clock.now() + SECOND)
        assert await keys.count_live_codes("k1") == 2
        assert await keys.count_live_codes("other") == 0
        assert await keys.use_up_code("one") == code
        assert await keys.use_up_code("one") is None
        clock.advance(SECOND)
        assert await keys.count_live_codes("k1") == 0
        assert await keys.use_up_code("two") == dataclasses.replace(code, expired=True)


async def test_of_two_that_use_a_code_at_once_one_gets_it(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        await Keys(tx).add(key("k1", clock))
        code = SignInCode("k1", ANN, KeyKind.USER, None, expired=False)
        await Keys(tx).add_code("one", code, created_at=clock.now(), expires_at=clock.now() + SECOND)

    async def use() -> SignInCode | None:
        async with db.write() as tx:
            return await Keys(tx).use_up_code("one")

    outcomes = await asyncio.gather(*(use() for _ in range(4)))
    assert sorted(outcome is not None for outcome in outcomes) == [False, False, False, True]


async def test_what_is_over_is_purged_and_no_key_is(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        keys = Keys(tx)
        await keys.add(key("parent", clock, expires_at=clock.now()))
        await keys.add(session("over", clock, expires_at=clock.now()))
        await keys.add(session("lives", clock, expires_at=clock.now() + SECOND))
        code = SignInCode("parent", ANN, KeyKind.USER, None, expired=False)
        await keys.add_code("over", code, created_at=clock.now(), expires_at=clock.now())
        await keys.add_code("lives", code, created_at=clock.now(), expires_at=clock.now() + SECOND)
        assert await keys.purge_expired() == 2
        assert await keys.purge_expired() == 0
        assert await keys.find("parent") is not None
        assert await keys.find("over") is None
        assert await keys.find("lives") is not None
        assert await keys.count_live_codes("parent") == 1


async def test_a_note_says_who_did_what(db: Database, clock: ManualClock) -> None:
    async with db.write() as tx:
        await Keys(tx).note("key_created", actor_key_id="k1", owner=ANN, subject_id="k2", detail={"kind": "user"})
        await Keys(tx).note("key_revoked", actor_key_id="k1", owner=BOB, subject_id="k3")
        rows = (await tx.execute(select(audit).order_by(audit.c.subject_id))).all()
    assert [(row.at, row.actor_key_id, row.owner_id, row.action, row.subject_id, row.detail) for row in rows] == [
        (clock.now(), "k1", "ann", "key_created", "k2", {"kind": "user"}),
        (clock.now(), "k1", "bob", "key_revoked", "k3", None),
    ]


async def test_routers_that_start_for_the_first_time_at_once_make_the_keys_once(
    open_database: Callable[[str], Database], clock: ManualClock, tmp_path: Path
) -> None:
    rings = Keyrings(tmp_path / "keys")
    databases = [open_database("router") for _ in range(3)]
    await asyncio.gather(*(Identities(db, rings.identity_signer(clock), clock).bootstrap(rings) for db in databases))
    async with databases[0].read() as tx:
        assert (await tx.execute(select(func.count()).select_from(api_keys))).scalar_one() == len(BOOTSTRAP_KEYS)


async def test_no_key_is_made_for_an_erased_owner(db: Database) -> None:
    async with db.write() as tx:
        await Keys(tx).refuse_erased(ANN)
        await Erased(tx, metadata).mark(ANN)
        with pytest.raises(FailedPrecondition):
            await Keys(tx).refuse_erased(ANN)
        await Keys(tx).refuse_erased(BOB)
