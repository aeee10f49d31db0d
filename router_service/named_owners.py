"""Owners as operators name them: what an id may be, of an owner and of a tenant."""

from __future__ import annotations

import re

from service_kit.blobs import key_segment
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.identity import Caller, Owner

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|~+=-]{0,127}")
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def named_owner(caller: Caller, *, owner_id: str, tenant_id: str) -> Owner:
    """Return the owner that an operator names; an empty tenant is the caller's own. Raises InvalidArgument."""
    return Owner(_good_tenant(tenant_id or caller.owner.tenant_id), _good_owner(owner_id))


def _good_owner(owner_id: str) -> str:
    if "@" in owner_id:
        raise InvalidArgument.field(
            "owner_id", "must not be an e-mail address; use an id of your own that says nothing about the person"
        )
    if not _OWNER.fullmatch(owner_id):
        raise InvalidArgument.field(
            "owner_id",
            f"must be 1..128 of A-Z a-z 0-9 . _ : | ~ + = - and start with a letter or digit, got {owner_id[:64]!r}",
        )
    try:
        key_segment(owner_id)
    except ValueError:
        raise InvalidArgument.field(
            "owner_id", "has too many of . : | for the name of a folder; use a shorter id", ErrorReason.OUT_OF_RANGE
        ) from None
    return owner_id


def _good_tenant(tenant_id: str) -> str:
    if not _TENANT.fullmatch(tenant_id):
        raise InvalidArgument.field(
            "tenant_id", f"must be 1..64 of A-Z a-z 0-9 . _ - and start with a letter or digit, got {tenant_id[:64]!r}"
        )
    return tenant_id
