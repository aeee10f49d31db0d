"""`IdentityService`: decode, one call, encode."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.identity.v1 import identity_service_pb2 as pb
from atelier.identity.v1 import identity_service_pb2_grpc
from router_service.identity import Identities
from router_service.limits import Limits
from router_service.named_owners import named_owner
from router_service.storage.keys import StoredKey
from router_service.storage.limits import Allowance
from service_kit.errors import InvalidArgument
from service_kit.identity import KeyKind, current_caller

_KINDS = {getattr(pb, f"KEY_KIND_{kind.name}"): kind for kind in KeyKind}
_KINDS_TO_PROTO = {kind: number for number, kind in _KINDS.items()}


class IdentityServicer(identity_service_pb2_grpc.IdentityServiceServicer):
    """Keys and identity tokens over gRPC."""

    def __init__(self, identities: Identities, limits: Limits) -> None:
        self._identities = identities
        self._limits = limits

    async def CreateKey(self, request: pb.CreateKeyRequest, context: Any) -> pb.CreateKeyResponse:
        made = await self._identities.create_key(
            current_caller(),
            owner_id=request.owner_id,
            tenant_id=request.tenant_id,
            kind=_kind(request.kind),
            name=request.name,
            valid_days=request.valid_days if request.HasField("valid_days") else None,
            allowance=_allowance(request),
            worker_types=request.worker_types,
        )
        return pb.CreateKeyResponse(key=_key_to_proto(made.key), secret=made.text.reveal())

    async def ListKeys(self, request: pb.ListKeysRequest, context: Any) -> pb.ListKeysResponse:
        keys, next_page_token = await self._identities.list_keys(
            owner_id=request.owner_id or None,
            page_size=request.page_size if request.HasField("page_size") else None,
            page_token=request.page_token,
        )
        return pb.ListKeysResponse(keys=[_key_to_proto(key) for key in keys], next_page_token=next_page_token)

    async def RevokeKey(self, request: pb.RevokeKeyRequest, context: Any) -> pb.RevokeKeyResponse:
        key = await self._identities.revoke_key(current_caller(), request.key_id)
        return pb.RevokeKeyResponse(key=_key_to_proto(key))

    async def UpdateKey(self, request: pb.UpdateKeyRequest, context: Any) -> pb.UpdateKeyResponse:
        key = await self._identities.update_key(current_caller(), request.key_id, _allowance(request))
        self._limits.forget(request.key_id)
        return pb.UpdateKeyResponse(key=_key_to_proto(key))

    async def GetOwnerLimits(self, request: pb.GetOwnerLimitsRequest, context: Any) -> pb.GetOwnerLimitsResponse:
        owner = named_owner(current_caller(), owner_id=request.owner_id, tenant_id=request.tenant_id)
        return pb.GetOwnerLimitsResponse(limits=_limits_to_proto(await self._identities.get_limits(owner)))

    async def PutOwnerLimits(self, request: pb.PutOwnerLimitsRequest, context: Any) -> pb.PutOwnerLimitsResponse:
        caller = current_caller()
        owner = named_owner(caller, owner_id=request.owner_id, tenant_id=request.tenant_id)
        allowance = _allowance(request.limits)
        await self._identities.put_limits(caller, owner, allowance)
        self._limits.forget(owner)
        return pb.PutOwnerLimitsResponse(limits=_limits_to_proto(allowance))

    async def ExchangeKey(self, request: pb.ExchangeKeyRequest, context: Any) -> pb.ExchangeKeyResponse:
        issued = await self._identities.exchange_key(request.secret)
        return pb.ExchangeKeyResponse(identity_token=issued.token.reveal(), expires_at=_time(issued.expires_at))

    async def CreateSignInCode(self, request: pb.CreateSignInCodeRequest, context: Any) -> pb.CreateSignInCodeResponse:
        made = await self._identities.create_sign_in_code(current_caller())
        return pb.CreateSignInCodeResponse(code=made.code.reveal(), expires_at=_time(made.expires_at))

    async def ExchangeSignInCode(
        self, request: pb.ExchangeSignInCodeRequest, context: Any
    ) -> pb.ExchangeSignInCodeResponse:
        made = await self._identities.exchange_sign_in_code(request.code)
        return pb.ExchangeSignInCodeResponse(key=_key_to_proto(made.key), secret=made.text.reveal())

    async def GetIdentity(self, request: pb.GetIdentityRequest, context: Any) -> pb.GetIdentityResponse:
        caller = current_caller()
        return pb.GetIdentityResponse(
            tenant_id=caller.owner.tenant_id,
            owner_id=caller.owner.owner_id,
            kind=_KINDS_TO_PROTO[caller.kind],
            scopes=sorted(caller.scopes),
        )

    async def CheckKey(self, request: pb.CheckKeyRequest, context: Any) -> pb.CheckKeyResponse:
        return pb.CheckKeyResponse(works=await self._identities.key_works(request.key_id))

    async def ListRevokedKeys(self, request: pb.ListRevokedKeysRequest, context: Any) -> pb.ListRevokedKeysResponse:
        key_ids, next_page_token = await self._identities.revoked_keys(request.page_token)
        return pb.ListRevokedKeysResponse(key_ids=key_ids, next_page_token=next_page_token)


def _kind(number: int) -> KeyKind:
    """Return the kind of a key to make; an unspecified one is a user's."""
    if number == pb.KEY_KIND_UNSPECIFIED:
        return KeyKind.USER
    if number not in _KINDS:
        raise InvalidArgument.field("kind", f"must be one of user, admin, worker, internal, got {number}")
    return _KINDS[number]


def _allowance(limits: pb.OwnerLimits | pb.CreateKeyRequest | pb.UpdateKeyRequest) -> Allowance:
    return Allowance(
        requests_per_minute=limits.requests_per_minute if limits.HasField("requests_per_minute") else None,
        queued_jobs=limits.queued_jobs if limits.HasField("queued_jobs") else None,
        running_jobs=limits.running_jobs if limits.HasField("running_jobs") else None,
    )


def _limits_to_proto(allowance: Allowance) -> pb.OwnerLimits:
    return pb.OwnerLimits(
        requests_per_minute=allowance.requests_per_minute,
        queued_jobs=allowance.queued_jobs,
        running_jobs=allowance.running_jobs,
    )


def _key_to_proto(key: StoredKey) -> pb.Key:
    return pb.Key(
        key_id=key.key_id,
        kind=_KINDS_TO_PROTO[key.kind],
        tenant_id=key.owner.tenant_id,
        owner_id=key.owner.owner_id,
        name=key.name,
        created_at=_time(key.created_at),
        expires_at=_time(key.expires_at) if key.expires_at is not None else None,
        revoked_at=_time(key.revoked_at) if key.revoked_at is not None else None,
        requests_per_minute=key.allowance.requests_per_minute,
        queued_jobs=key.allowance.queued_jobs,
        running_jobs=key.allowance.running_jobs,
        worker_types=key.worker_types,
    )


def _time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp
