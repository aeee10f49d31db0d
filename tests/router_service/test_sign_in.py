"""Codes and sessions of browsers: a code signs in once, a session ends with its key, and what is over is purged."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import select

from router_service import identity
from router_service.identity import MadeKey
from router_service.storage.identity_tables import sign_in_codes
from service_kit.errors import ResourceExhausted, Unauthenticated
from service_kit.identity import KeyKind, Owner, Scope
from tests.router_service.desk import Desk


async def test_a_code_signs_in_once_even_when_tried_at_the_same_moment(desk: Desk) -> None:
    caller = await desk.who(await desk.key())
    code = (await desk.identities.create_sign_in_code(caller)).code.reveal()

    results = await asyncio.gather(
        *(desk.identities.exchange_sign_in_code(code) for _ in range(5)), return_exceptions=True
    )

    sessions = [result for result in results if isinstance(result, MadeKey)]
    assert len(sessions) == 1
    assert all(isinstance(result, (MadeKey, Unauthenticated)) for result in results)
    who = await desk.who(sessions[0])
    assert (who.owner, who.kind, who.scopes) == (caller.owner, KeyKind.SESSION, frozenset({Scope.USE}))


async def test_a_code_is_stored_hashed_and_ends_after_ten_minutes(desk: Desk) -> None:
    caller = await desk.who(await desk.key())
    made = await desk.identities.create_sign_in_code(caller)
    async with desk.db.read() as tx:
        row = (await tx.execute(select(sign_in_codes))).one()
    assert made.code.reveal() not in str(tuple(row))
    assert made.expires_at == desk.clock.now() + timedelta(minutes=10)

    desk.clock.advance(timedelta(minutes=10))
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_sign_in_code(made.code.reveal())


async def test_a_session_lasts_twelve_hours(desk: Desk) -> None:
    session = await desk.session(await desk.who(await desk.key()))
    desk.clock.advance(timedelta(hours=12, seconds=-1))
    await desk.who(session)
    desk.clock.advance(timedelta(seconds=1))

    with pytest.raises(Unauthenticated):
        await desk.who(session)


async def test_a_session_ends_with_its_key(desk: Desk) -> None:
    made = await desk.key()
    caller = await desk.who(made)
    session = await desk.session(caller)
    code = (await desk.identities.create_sign_in_code(caller)).code.reveal()
    await desk.identities.revoke_key(desk.admin, made.key.key_id)

    with pytest.raises(Unauthenticated):
        await desk.who(session)
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_sign_in_code(code)
    with pytest.raises(Unauthenticated):
        await desk.identities.create_sign_in_code(caller)
    keys, _ = await desk.identities.list_keys(owner_id=None, page_size=None, page_token="")
    assert all(key.revoked_at is not None for key in keys)


async def test_a_chain_of_sessions_lives_no_longer_than_its_first(desk: Desk) -> None:
    root = await desk.key()
    first = await desk.session(await desk.who(root))
    desk.clock.advance(timedelta(hours=11))
    second = await desk.session(await desk.who(first))

    assert second.key.expires_at == first.key.expires_at
    assert second.key.parent_key_id == root.key.key_id
    await desk.identities.revoke_key(desk.admin, root.key.key_id)
    with pytest.raises(Unauthenticated):
        await desk.who(second)


async def test_a_session_may_do_what_a_browser_should(desk: Desk) -> None:
    admin = await desk.who(await desk.session(await desk.who(await desk.key("root", KeyKind.ADMIN))))
    service = await desk.who(await desk.key("shop", KeyKind.INTERNAL))
    shop = await desk.who(await desk.session(service))
    customer = await desk.who(await desk.session(service.acting_for(Owner("default", "ada"))))

    assert admin.scopes == {Scope.USE, Scope.ADMIN}
    assert shop.scopes == customer.scopes == {Scope.USE}
    assert customer.owner == Owner("default", "ada")


async def test_unused_codes_do_not_pile_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MAX_LIVE_CODES", 2)
    caller = await desk.who(await desk.key())
    await desk.identities.create_sign_in_code(caller)
    await desk.identities.create_sign_in_code(caller)
    with pytest.raises(ResourceExhausted):
        await desk.identities.create_sign_in_code(caller)

    desk.clock.advance(timedelta(minutes=10))
    await desk.identities.create_sign_in_code(caller)


async def test_what_is_over_is_purged_and_nothing_else(desk: Desk) -> None:
    expired = await desk.key(valid_days=1)
    caller = await desk.who(expired)
    await desk.session(caller)
    await desk.identities.create_sign_in_code(caller)
    assert await desk.identities.purge_expired() == 0

    desk.clock.advance(timedelta(days=1))

    assert await desk.identities.purge_expired() == 2
    keys, _ = await desk.identities.list_keys(owner_id=None, page_size=None, page_token="")
    assert [key.key_id for key in keys] == [expired.key.key_id]
