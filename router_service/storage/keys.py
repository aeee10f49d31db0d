"""Every query on keys, sign-in codes and the audit of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.storage.identity_tables import api_keys, audit, sign_in_codes
from router_service.storage.limits import UNSAID, Allowance
from router_service.storage.metadata import metadata
from service_kit.database import UtcDateTime, db_now
from service_kit.erasure import Erased
from service_kit.identity import KeyKind, Owner
from service_kit.ids import new_id


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is kept: without its secret, with the hash of it."""

    key_id: str
    secret_hash: str
    kind: KeyKind
    scopes_of: KeyKind
    owner: Owner
    name: str
    parent_key_id: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    allowance: Allowance = UNSAID
    worker_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SignInCode:
    """A code that a browser may sign in with once. `expired` is as the database's clock sees it."""

    key_id: str
    owner: Owner
    scopes_of: KeyKind
    session_ends_at: datetime | None
    expired: bool


class Keys:
    """Keys, sign-in codes and audit, within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def refuse_erased(self, owner: Owner) -> None:
        """Raise FailedPrecondition with `owner_erased` for an erased owner; others are not erased meanwhile."""
        await Erased(self._tx, metadata).refuse(owner)

    async def add(self, key: StoredKey) -> None:
        """Write a new key. Its id must be new."""
        await self._tx.execute(
            insert(api_keys).values(
                key_id=key.key_id,
                secret_hash=key.secret_hash,
                kind=key.kind.value,
                scopes_of=key.scopes_of.value,
                tenant_id=key.owner.tenant_id,
                owner_id=key.owner.owner_id,
                name=key.name,
                parent_key_id=key.parent_key_id,
                created_at=key.created_at,
                expires_at=key.expires_at,
                revoked_at=key.revoked_at,
                **asdict(key.allowance),
                worker_types=list(key.worker_types) or None,
            )
        )

    async def find(self, key_id: str) -> StoredKey | None:
        """Return a key, live or not; None when there is none."""
        row = (await self._tx.execute(select(api_keys).where(api_keys.c.key_id == key_id))).one_or_none()
        return None if row is None else _to_key(row)

    async def find_live(self, key_id: str) -> StoredKey | None:
        """Return a key that works now; None when it, or the key that a session comes from, is revoked or expired."""
        parents = api_keys.alias("parents")
        query = (
            select(api_keys)
            .outerjoin(parents, parents.c.key_id == api_keys.c.parent_key_id)
            .where(api_keys.c.key_id == key_id, _is_live(api_keys), _is_live(parents))
        )
        row = (await self._tx.execute(query)).one_or_none()
        return None if row is None else _to_key(row)

    async def revoked_within(
        self, window: timedelta, *, before: tuple[datetime, str] | None, limit: int
    ) -> list[tuple[datetime, str]]:
        """Return when keys were revoked a short while ago and their ids, newest first, after the last of a page."""
        place = api_keys.c.revoked_at, api_keys.c.key_id
        query = select(*place).where(api_keys.c.revoked_at > db_now(plus=-window))
        if before is not None:
            query = query.where(tuple_(*place) < tuple_(literal(before[0], UtcDateTime), before[1]))
        query = query.order_by(*(column.desc() for column in place)).limit(limit)
        return [(revoked_at, key_id) for revoked_at, key_id in await self._tx.execute(query)]

    async def newest(self, *, owner_id: str | None, before: tuple[datetime, str] | None, limit: int) -> list[StoredKey]:
        """Return keys, newest first, after the place (`created_at`, `key_id`); empty when there are no more."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.key_id.desc()).limit(limit)
        if owner_id is not None:
            query = query.where(api_keys.c.owner_id == owner_id)
        if before is not None:
            query = query.where(
                tuple_(api_keys.c.created_at, api_keys.c.key_id) < tuple_(literal(before[0], UtcDateTime), before[1])
            )
        return [_to_key(row) for row in await self._tx.execute(query)]

    async def revoke(self, key_id: str) -> None:
        """Revoke a key and the sessions that come from it; what is revoked already keeps its time."""
        await self._tx.execute(
            update(api_keys)
            .where(or_(api_keys.c.key_id == key_id, api_keys.c.parent_key_id == key_id))
            .where(api_keys.c.revoked_at.is_(None))
            .values(revoked_at=db_now())
        )

    async def set_allowance(self, key_id: str, allowance: Allowance) -> None:
        """Set what a key may ask for, in place of what was set before."""
        changed = update(api_keys).where(api_keys.c.key_id == key_id)
        await self._tx.execute(changed.values(**asdict(allowance)))

    async def add_code(self, code_hash: str, code: SignInCode, *, created_at: datetime, expires_at: datetime) -> None:
        """Write a new sign-in code by its hash."""
        await self._tx.execute(
            insert(sign_in_codes).values(
                code_hash=code_hash,
                key_id=code.key_id,
                tenant_id=code.owner.tenant_id,
                owner_id=code.owner.owner_id,
                scopes_of=code.scopes_of.value,
                session_ends_at=code.session_ends_at,
                created_at=created_at,
                expires_at=expires_at,
            )
        )

    async def count_live_codes(self, key_id: str) -> int:
        """Return how many codes of a key could still be used."""
        query = select(func.count()).where(sign_in_codes.c.key_id == key_id, sign_in_codes.c.expires_at > db_now())
        return (await self._tx.execute(query)).scalar_one()

    async def use_up_code(self, code_hash: str) -> SignInCode | None:
        """Take a code away and return it; None when there is none. Of two callers only one gets it."""
        row = (
            await self._tx.execute(
                delete(sign_in_codes)
                .where(sign_in_codes.c.code_hash == code_hash)
                .returning(sign_in_codes, (sign_in_codes.c.expires_at <= db_now()).label("expired"))
            )
        ).one_or_none()
        if row is None:
            return None
        return SignInCode(
            row.key_id,
            Owner(row.tenant_id, row.owner_id),
            KeyKind(row.scopes_of),
            row.session_ends_at,
            bool(row.expired),
        )

    async def purge_expired(self) -> int:
        """Delete codes and sessions whose time is over; returns how many."""
        codes = await self._tx.execute(delete(sign_in_codes).where(sign_in_codes.c.expires_at <= db_now()))
        sessions = await self._tx.execute(
            delete(api_keys).where(api_keys.c.kind == KeyKind.SESSION.value, api_keys.c.expires_at <= db_now())
        )
        return codes.rowcount + sessions.rowcount

    async def note(
        self, action: str, *, actor_key_id: str, owner: Owner, subject_id: str, detail: Mapping[str, Any] | None = None
    ) -> None:
        """Write to the audit who did what; `owner` is whose the subject is."""
        await self._tx.execute(
            insert(audit).values(
                id=new_id(),
                at=db_now(),
                actor_key_id=actor_key_id,
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                action=action,
                subject_id=subject_id,
                detail=None if detail is None else dict(detail),
            )
        )


def _is_live(table: Any) -> ColumnElement[bool]:
    """Neither revoked nor expired; also true of a row that an outer join did not find."""
    return and_(table.c.revoked_at.is_(None), or_(table.c.expires_at.is_(None), table.c.expires_at > db_now()))


def _to_key(row: Row[Any]) -> StoredKey:
    return StoredKey(
        key_id=row.key_id,
        secret_hash=row.secret_hash,
        kind=KeyKind(row.kind),
        scopes_of=KeyKind(row.scopes_of),
        owner=Owner(row.tenant_id, row.owner_id),
        name=row.name,
        parent_key_id=row.parent_key_id,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        allowance=Allowance(row.requests_per_minute, row.queued_jobs, row.running_jobs),
        worker_types=tuple(row.worker_types or ()),
    )
