"""Keys: what they give, to whom, for how long, and that nothing tells a guesser more than no."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from sqlalchemy import insert, select

from router_service import identity
from router_service.storage.identity_tables import api_keys, audit
from service_kit.api_keys import secret_matches
from service_kit.errors import ErrorReason, InvalidArgument, NotFound, Unauthenticated
from service_kit.identity import KeyKind, Owner, Scope
from service_kit.paging import encode_page_token
from service_kit.secret import Secret
from tests.router_service.desk import Desk


async def test_a_key_gives_a_token_of_its_owner(desk: Desk) -> None:
    made = await desk.key("ada", KeyKind.INTERNAL)

    caller = await desk.who(made)

    assert caller.owner == Owner("default", "ada")
    assert caller.kind is KeyKind.INTERNAL
    assert caller.scopes == {Scope.USE, Scope.ACT}
    assert caller.key_id == made.key.key_id
    assert caller.expires_at == desk.clock.now() + timedelta(minutes=5)


async def test_only_the_hash_of_a_key_is_stored(desk: Desk) -> None:
    made = await desk.key()
    secret = made.text.reveal().split("_", 2)[2]

    async with desk.db.read() as tx:
        row = (await tx.execute(select(api_keys))).one()
        noted = (await tx.execute(select(audit))).one()

    assert row.secret_hash == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(tuple(row)) + str(tuple(noted)) + repr(made)
    assert (noted.action, noted.actor_key_id, noted.subject_id) == ("key_created", "0" * 16, made.key.key_id)


async def test_a_refusal_never_tells_why(desk: Desk) -> None:
    revoked, expired, good = await desk.key(), await desk.key(valid_days=1), await desk.key()
    await desk.identities.revoke_key(desk.admin, revoked.key.key_id)
    desk.clock.advance(timedelta(days=1))
    text = good.text.reveal()
    answers = set()
    for attempt in (
        revoked.text.reveal(),
        expired.text.reveal(),
        text[:-1] + ("A" if text[-1] != "A" else "B"),
        f"atl_{'f' * 16}_{'A' * 43}",
        "not a key",
        "",
    ):
        with pytest.raises(Unauthenticated) as refused:
            await desk.identities.exchange_key(attempt)
        answers.add((refused.value.message, refused.value.reason))
        assert attempt == "" or attempt not in refused.value.message

    assert len(answers) == 1
    assert answers.pop()[1] is ErrorReason.INVALID_IDENTITY
    assert (await desk.who(good)).owner.owner_id == "ada"


async def test_an_unknown_key_costs_the_same_work_as_a_wrong_secret(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def compare(secret: Secret, stored_hash: str) -> bool:
        compared.append(stored_hash)
        return secret_matches(secret, stored_hash)

    monkeypatch.setattr(identity, "secret_matches", compare)
    for text in (f"atl_{'f' * 16}_{'A' * 43}", "not a key"):
        with pytest.raises(Unauthenticated):
            await desk.identities.exchange_key(text)

    assert len(compared) == 2


async def test_the_secret_of_nobody_opens_nothing(desk: Desk) -> None:
    # The hash that stands in for an unknown key is that of an empty text: sending one must not match it.
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_key("")
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_key(f"atl_{'f' * 16}_")


async def test_a_token_does_not_outlive_its_key(desk: Desk) -> None:
    made = await desk.key(valid_days=1)
    desk.clock.advance(timedelta(days=1, seconds=-90))

    caller = await desk.who(made)

    assert caller.expires_at == made.key.expires_at == desk.clock.now() + timedelta(seconds=90)


@pytest.mark.parametrize(
    ("owner_id", "tenant_id", "kind", "field"),
    [
        ("ada@example.org", "", KeyKind.USER, "owner_id"),
        ("", "", KeyKind.USER, "owner_id"),
        ("../ada", "", KeyKind.USER, "owner_id"),
        ("ada\n", "", KeyKind.USER, "owner_id"),
        ("a" * 129, "", KeyKind.USER, "owner_id"),
        ("a" + "|" * 100, "", KeyKind.USER, "owner_id"),
        ("ada", "a/b", KeyKind.USER, "tenant_id"),
        ("ada", "t" * 65, KeyKind.USER, "tenant_id"),
        ("ada", "", KeyKind.SERVICE, "kind"),
        ("ada", "", KeyKind.SESSION, "kind"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_field(
    desk: Desk, owner_id: str, tenant_id: str, kind: KeyKind, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await desk.key(owner_id, kind, tenant_id=tenant_id)

    assert [problem.field for problem in refused.value.fields] == [field]
    assert (await desk.identities.list_keys(owner_id=None, page_size=None, page_token=""))[0] == []


async def test_an_email_address_is_told_to_be_one(desk: Desk) -> None:
    with pytest.raises(InvalidArgument, match="e-mail address"):
        await desk.key("ada@example.org")


async def test_the_tenant_is_the_admins_own_unless_said(desk: Desk) -> None:
    assert (await desk.who(await desk.key())).owner.tenant_id == "default"
    assert (await desk.who(await desk.key(tenant_id="acme"))).owner.tenant_id == "acme"


async def test_keys_are_listed_newest_first_page_by_page(desk: Desk) -> None:
    made = []
    for _ in range(5):
        made.append((await desk.key()).key.key_id)
        desk.clock.advance(timedelta(microseconds=1))
    await desk.key("bob")
    seen: list[str] = []
    token = ""
    for _ in range(3):
        keys, token = await desk.identities.list_keys(owner_id="ada", page_size=2, page_token=token)
        seen += [key.key_id for key in keys]

    assert seen == made[::-1]
    assert token == ""


async def test_a_page_token_of_something_else_is_refused(desk: Desk) -> None:
    no_time = encode_page_token("identity.keys", ["soon", "a"])
    no_zone = encode_page_token("identity.keys", ["2026-01-01T00:00:00", "a"])
    for token in ("nonsense", encode_page_token("library.items", ["a", "b"]), no_time, no_zone):
        with pytest.raises(InvalidArgument, match="page_token"):
            await desk.identities.list_keys(owner_id=None, page_size=None, page_token=token)


async def test_revoking_twice_keeps_the_first_time(desk: Desk) -> None:
    made = await desk.key()
    assert await desk.identities.key_works(made.key.key_id)
    first = await desk.identities.revoke_key(desk.admin, made.key.key_id)
    desk.clock.advance(timedelta(hours=1))
    second = await desk.identities.revoke_key(desk.admin, made.key.key_id)

    assert first.revoked_at is not None
    assert second.revoked_at == first.revoked_at
    assert not await desk.identities.key_works(made.key.key_id)
    with pytest.raises(NotFound):
        await desk.identities.revoke_key(desk.admin, "f" * 16)


async def test_of_many_keys_that_are_revoked_in_one_moment_none_is_left_out(desk: Desk) -> None:
    made = await desk.key()
    many = [f"{number:016x}" for number in range(identity.REVOKED_AT_ONCE * 3 // 2)]
    async with desk.db.write() as tx:
        row = dict((await tx.execute(select(api_keys))).one()._mapping)
        now = desk.clock.now()
        await tx.execute(insert(api_keys), [row | {"key_id": key_id, "revoked_at": now} for key_id in many])

    first, token = await desk.identities.revoked_keys()
    second, end = await desk.identities.revoked_keys(token)

    assert (len(first), end) == (identity.REVOKED_AT_ONCE, "")
    assert sorted(first + second) == many
    assert made.key.key_id not in many
    with pytest.raises(InvalidArgument, match="page_token"):
        await desk.identities.revoked_keys(encode_page_token("router.keys", ["2026-01-01T00:00:00Z", "k"]))
