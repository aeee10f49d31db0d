"""Keys, codes and sessions: what they give, to whom, for how long, and that nothing tells a guesser more than no."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from router_service import identity
from router_service.identity import Identities, MadeKey
from router_service.storage.identity_tables import api_keys, audit, sign_in_codes
from router_service.storage.metadata import metadata
from service_kit.api_keys import secret_matches
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, NotFound, ResourceExhausted, Unauthenticated
from service_kit.identity import SCOPES, Caller, KeyKind, Owner, Scope
from service_kit.keyring import Keyrings
from service_kit.paging import encode_page_token
from service_kit.secret import Secret


class Desk:
    """The identities of one router, its clock, and who asks."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.db = Database(f"sqlite+aiosqlite:///{folder / 'router.sqlite3'}", clock=self.clock)
        self.rings = Keyrings(folder / "keys")
        self.verifier = self.rings.identity_verifier(self.clock)
        self.identities = Identities(self.db, self.rings.identity_signer(self.clock), self.clock)
        self.admin = self.caller("root", KeyKind.ADMIN)

    def caller(self, owner_id: str, kind: KeyKind, key_id: str = "0" * 16) -> Caller:
        owner = Owner("default", owner_id)
        return Caller(owner, owner, kind, SCOPES[kind], key_id, self.clock.now() + timedelta(minutes=5))

    async def key(
        self, owner_id: str = "ada", kind: KeyKind = KeyKind.USER, valid_days: int | None = None, tenant_id: str = ""
    ) -> MadeKey:
        return await self.identities.create_key(
            self.admin, owner_id=owner_id, tenant_id=tenant_id, kind=kind, name="", valid_days=valid_days
        )

    async def who(self, made: MadeKey) -> Caller:
        issued = await self.identities.exchange_key(made.text.reveal())
        return self.verifier.verify(issued.token.reveal())

    async def session(self, caller: Caller) -> MadeKey:
        made = await self.identities.create_sign_in_code(caller)
        return await self.identities.exchange_sign_in_code(made.code.reveal())


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    async with desk.db.write() as tx:
        await tx.run_sync(metadata.create_all)
    yield desk
    await desk.db.close()


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


FILES = ("admin.key", "gateway.key", "library.key", "worker.key")


async def test_the_first_start_writes_keys_that_work(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)

    found = {}
    for name in FILES:
        path = tmp_path / "keys" / name
        assert path.stat().st_mode & 0o777 == 0o600
        token = (await desk.identities.exchange_key(path.read_text().strip())).token
        found[name] = desk.verifier.verify(token.reveal())
    assert {name: (caller.owner, caller.kind) for name, caller in found.items()} == {
        "admin.key": (Owner("default", "admin"), KeyKind.ADMIN),
        "gateway.key": (Owner("default", "gateway"), KeyKind.SERVICE),
        "library.key": (Owner("default", "library"), KeyKind.SERVICE),
        "worker.key": (Owner("default", "worker"), KeyKind.WORKER),
    }


def _texts(folder: Path) -> list[str]:
    return [(folder / "keys" / name).read_text() for name in FILES]


async def test_the_second_start_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)
    before = _texts(tmp_path)
    await desk.identities.bootstrap(desk.rings)

    assert _texts(tmp_path) == before
    assert len((await desk.identities.list_keys(owner_id=None, page_size=None, page_token=""))[0]) == 4


@pytest.mark.parametrize("written", [0, 1, 2, 3, 4])
async def test_a_first_start_that_broke_off_is_finished_by_the_next(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """Dies after some of the files, or after all of them but before the commit."""
    left = written
    real = desk.identities._ensure_key_file

    async def ensure(*arguments: object) -> None:
        nonlocal left
        if left == 0:
            raise RuntimeError("power cut")
        left -= 1
        await real(*arguments)  # type: ignore[arg-type]
        if written == len(FILES) and left == 0:
            raise RuntimeError("power cut")

    monkeypatch.setattr(desk.identities, "_ensure_key_file", ensure)
    with pytest.raises(RuntimeError, match="power cut"):
        await desk.identities.bootstrap(desk.rings)
    monkeypatch.undo()
    early = [(tmp_path / "keys" / name).read_text() for name in FILES[:written]]

    await desk.identities.bootstrap(desk.rings)

    assert _texts(tmp_path)[:written] == early
    for text in _texts(tmp_path):
        await desk.identities.exchange_key(text.strip())
    assert len((await desk.identities.list_keys(owner_id=None, page_size=None, page_token=""))[0]) == 4


@pytest.mark.parametrize("content", [None, b"", b"not a key\n", b"\xff\xfe", b"atl_0123456789abcdef_short"])
async def test_a_key_file_that_is_lost_or_damaged_is_made_anew(
    desk: Desk, tmp_path: Path, content: bytes | None
) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / "library.key"
    old = path.read_text().strip()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)

    await desk.identities.bootstrap(desk.rings)

    assert path.read_text().strip() != old
    await desk.identities.exchange_key(path.read_text().strip())
    # Nobody asked to revoke the old one; it may have been moved to a safer place.
    await desk.identities.exchange_key(old)


async def test_a_key_file_with_a_wrong_secret_for_a_known_key_is_made_anew(desk: Desk, tmp_path: Path) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / "admin.key"
    forged = path.read_text().strip()[: -len("x" * 43)] + "x" * 43
    path.write_text(forged)

    await desk.identities.bootstrap(desk.rings)

    assert path.read_text().strip() != forged
    await desk.identities.exchange_key(path.read_text().strip())
    with pytest.raises(AtelierError):
        await desk.identities.exchange_key(forged)


@pytest.mark.parametrize(("name", "comes_back"), [("library.key", True), ("admin.key", False), ("worker.key", False)])
async def test_a_revoked_key_comes_back_only_for_our_own_services(
    desk: Desk, tmp_path: Path, name: str, comes_back: bool
) -> None:
    await desk.identities.bootstrap(desk.rings)
    path = tmp_path / "keys" / name
    old = path.read_text()
    await desk.identities.revoke_key(desk.admin, old.split("_")[1])

    await desk.identities.bootstrap(desk.rings)

    assert (path.read_text() != old) is comes_back
    with pytest.raises(Unauthenticated):
        await desk.identities.exchange_key(old.strip())
