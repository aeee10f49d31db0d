"""`IdentityService` over gRPC: who may call what, and what goes over the wire."""

from __future__ import annotations

from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.identity.v1 import identity_service_pb2 as pb
from atelier.identity.v1 import identity_service_pb2_grpc
from atelier.worker.v1 import worker_service_pb2
from router_service.storage import MIGRATIONS
from router_service.storage.metadata import metadata
from service_kit.channels import connect
from service_kit.database import Database
from service_kit.identity import Owner, on_behalf_of
from service_kit.migrate import schema_differences
from tests.router_service.support import Router

Identity = identity_service_pb2_grpc.IdentityServiceStub


async def signed_in(router: Router, key: str) -> Any:
    return Identity(await router.channel_with(key, router.target))


async def made(router: Router, kind: str = "USER", owner_id: str = "ada", **fields: Any) -> pb.CreateKeyResponse:
    kind_number = pb.KeyKind.Value(f"KEY_KIND_{kind}")
    return await router.identities.CreateKey(pb.CreateKeyRequest(owner_id=owner_id, kind=kind_number, **fields))


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return refused.value.code(), refused.value.details() or ""


async def test_a_key_made_by_an_admin_signs_its_owner_in(router: Router) -> None:
    response = await made(router, name="laptop", valid_days=2)
    key = response.key
    ada = await signed_in(router, response.secret)

    who = await ada.GetIdentity(pb.GetIdentityRequest())

    assert (who.tenant_id, who.owner_id, who.kind, list(who.scopes)) == ("default", "ada", pb.KEY_KIND_USER, ["use"])
    assert (key.name, key.kind, response.secret.split("_")[1]) == ("laptop", pb.KEY_KIND_USER, key.key_id)
    assert key.expires_at.ToDatetime(UTC) == key.created_at.ToDatetime(UTC) + timedelta(days=2)
    assert not key.HasField("revoked_at")


async def test_a_key_is_for_a_user_unless_said(router: Router) -> None:
    response = await router.identities.CreateKey(pb.CreateKeyRequest(owner_id="ada"))

    assert response.key.kind == pb.KEY_KIND_USER
    assert not response.key.HasField("expires_at")


@pytest.mark.parametrize("kind", ["USER", "WORKER", "INTERNAL"])
async def test_only_admins_make_list_and_revoke_keys(router: Router, kind: str) -> None:
    response = await made(router, kind)
    other = await signed_in(router, response.secret)

    for call in (
        other.CreateKey(pb.CreateKeyRequest(owner_id="eve", kind=pb.KEY_KIND_ADMIN)),
        other.ListKeys(pb.ListKeysRequest()),
        other.RevokeKey(pb.RevokeKeyRequest(key_id=response.key.key_id)),
    ):
        assert (await refusal(call))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_session_cannot_be_more_than_its_key(router: Router) -> None:
    ada = await signed_in(router, (await made(router)).secret)
    code = (await ada.CreateSignInCode(pb.CreateSignInCodeRequest())).code
    async with connect(router.target) as channel:
        open_door = Identity(channel)
        session = await open_door.ExchangeSignInCode(pb.ExchangeSignInCodeRequest(code=code))
        again = open_door.ExchangeSignInCode(pb.ExchangeSignInCodeRequest(code=code))
        assert (await refusal(again))[0] is grpc.StatusCode.UNAUTHENTICATED
    browser = await signed_in(router, session.secret)

    assert session.key.kind == pb.KEY_KIND_SESSION
    assert (await browser.GetIdentity(pb.GetIdentityRequest())).owner_id == "ada"
    assert (await refusal(browser.ListKeys(pb.ListKeysRequest())))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_a_customers_service_acts_for_owners_of_its_tenant_only(router: Router) -> None:
    shop = await signed_in(router, (await made(router, "INTERNAL", "shop")).secret)
    ada = await signed_in(router, (await made(router)).secret)

    mine = await shop.GetIdentity(pb.GetIdentityRequest(), metadata=on_behalf_of(Owner("default", "bob")))
    foreign = shop.GetIdentity(pb.GetIdentityRequest(), metadata=on_behalf_of(Owner("acme", "bob")))
    usurped = ada.GetIdentity(pb.GetIdentityRequest(), metadata=on_behalf_of(Owner("default", "bob")))

    assert mine.owner_id == "bob"
    assert (await refusal(foreign))[0] is grpc.StatusCode.PERMISSION_DENIED
    assert (await refusal(usurped))[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_what_was_revoked_lately_is_named_to_services(router: Router) -> None:
    first, second, _ = [(await made(router)).key.key_id for _ in range(3)]
    service = await signed_in(router, router.service.rings.read_key_file("gateway.key").reveal())

    async def revoked() -> list[str]:
        return list((await service.ListRevokedKeys(pb.ListRevokedKeysRequest())).key_ids)

    assert await revoked() == []
    await router.identities.RevokeKey(pb.RevokeKeyRequest(key_id=first))
    router.clock.advance(timedelta(minutes=4))
    await router.identities.RevokeKey(pb.RevokeKeyRequest(key_id=second))
    assert await revoked() == [second, first]


async def test_a_revoked_key_signs_nobody_in(router: Router) -> None:
    response = await made(router)
    revoked = await router.identities.RevokeKey(pb.RevokeKeyRequest(key_id=response.key.key_id))
    listed = await router.identities.ListKeys(pb.ListKeysRequest(owner_id="ada"))
    async with connect(router.target) as channel:
        code, _ = await refusal(Identity(channel).ExchangeKey(pb.ExchangeKeyRequest(secret=response.secret)))

    assert revoked.key.HasField("revoked_at")
    assert list(listed.keys) == [revoked.key]
    assert code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"owner_id": "ada@example.org"}, "owner_id"),
        ({"owner_id": ""}, "owner_id"),
        ({"kind": "SERVICE"}, "kind"),
        ({"kind": "SESSION"}, "kind"),
        ({"valid_days": 0}, "valid_days"),
        ({"name": "two\nlines"}, "name"),
    ],
)
async def test_a_key_that_cannot_be_is_refused_by_field(router: Router, fields: dict[str, Any], field: str) -> None:
    code, message = await refusal(made(router, **fields))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message.startswith(field)


async def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'router.sqlite3'}")

    assert await schema_differences(db, MIGRATIONS, metadata) == []

    await db.close()


async def test_a_worker_whose_key_is_revoked_is_out_at_its_next_heartbeat(router: Router) -> None:
    worker = await router.worker()
    await worker.say(heartbeat=worker_service_pb2.Heartbeat())
    await worker.hear("heartbeat_ack")
    key_id = router.service.rings.read_key_file("worker.key").reveal().split("_")[1]
    await router.identities.RevokeKey(pb.RevokeKeyRequest(key_id=key_id))

    await worker.say(heartbeat=worker_service_pb2.Heartbeat())

    assert await worker.end() is grpc.StatusCode.UNAUTHENTICATED
