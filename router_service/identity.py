"""Keys, sign-in codes and sessions: who may be whom. The only place that makes or checks a key."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from router_service.named_owners import named_owner
from router_service.storage.keys import Keys, SignInCode, StoredKey
from router_service.storage.limits import UNSAID, Allowance, PartyLimits
from service_kit.api_keys import NewKey, new_api_key, parse_api_key, read_back, secret_matches
from service_kit.clock import Clock
from service_kit.database import Database
from service_kit.errors import (
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
)
from service_kit.identity import SCOPES, TOKEN_TTL, Caller, IdentitySigner, IssuedToken, KeyKind, Owner, Rates
from service_kit.keyring import Keyrings
from service_kit.paging import decode_place, encode_place
from service_kit.secret import Secret
from service_kit.telemetry import get_logger

CODE_TTL = timedelta(minutes=10)
SESSION_TTL = timedelta(hours=12)
MAX_LIVE_CODES = 100
DEFAULT_TENANT = "default"
DEFAULT_PAGE_SIZE = 50
KINDS_TO_CREATE = (KeyKind.USER, KeyKind.ADMIN, KeyKind.WORKER, KeyKind.INTERNAL)

BOOTSTRAP_KEYS = (
    ("admin.key", KeyKind.ADMIN, "admin"),
    ("gateway.key", KeyKind.SERVICE, "gateway"),
    ("library.key", KeyKind.SERVICE, "library"),
    ("worker.key", KeyKind.WORKER, "worker"),
)

_LONGEST_WORKER_TYPE = 64
_PAGES = "identity.keys"
# Longer than a token lives; a key that is not named is of no use after that either.
_REVOKED_LATELY = timedelta(minutes=10)
REVOKED_AT_ONCE = 1000
"""How many keys that were revoked lately one page names."""

_REVOKED_PAGES = "router.revoked_keys"
# What a secret is compared with when there is no such key, so that both cases do the same work.
_NOBODY = hashlib.sha256(b"").hexdigest()

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key, and its text, which is not kept."""

    key: StoredKey
    text: Secret


@dataclass(frozen=True, slots=True)
class MadeCode:
    """A new sign-in code, which is not kept in clear."""

    code: Secret
    expires_at: datetime


class Identities:
    """Makes, lists, revokes and exchanges keys."""

    def __init__(self, db: Database, signer: IdentitySigner, clock: Clock) -> None:
        """Take the router's database, the signer of identity tokens, and the clock that the signer follows."""
        self._db = db
        self._signer = signer
        self._clock = clock

    async def create_key(
        self,
        caller: Caller,
        *,
        owner_id: str,
        tenant_id: str,
        kind: KeyKind,
        name: str,
        valid_days: int | None,
        allowance: Allowance = UNSAID,
        worker_types: Sequence[str] = (),
    ) -> MadeKey:
        """Make a key. An empty tenant is the caller's own; without worker types its workers may serve any.

        Raises:
            InvalidArgument: an owner, tenant, kind, name or worker type that cannot be; names the field.
            FailedPrecondition: `owner_erased`.
        """
        if kind not in KINDS_TO_CREATE:
            known = ", ".join(KINDS_TO_CREATE)
            raise InvalidArgument.field("kind", f"must be one of {known}; Atelier makes {kind} keys by itself")
        owner = named_owner(caller, owner_id=owner_id, tenant_id=tenant_id)
        if not name.isprintable():
            raise InvalidArgument.field("name", "must be printable text in one line")
        _check_worker_types(kind, worker_types)
        async with self._db.write() as tx:
            keys = Keys(tx)
            await keys.refuse_erased(owner)
            now = await self._db.now(tx)
            new = new_api_key()
            key = replace(
                _stored(new, kind, owner, name, now),
                allowance=allowance,
                worker_types=tuple(worker_types),
            )
            if valid_days is not None:
                key = replace(key, expires_at=now + timedelta(days=valid_days))
            await keys.add(key)
            await keys.note(
                "key_created", actor_key_id=caller.key_id, owner=owner, subject_id=key.key_id, detail={"kind": kind}
            )
        log.info("key_created", key_id=key.key_id, kind=kind, by_key_id=caller.key_id)
        return MadeKey(key, new.text)

    async def list_keys(
        self, *, owner_id: str | None, page_size: int | None, page_token: str
    ) -> tuple[list[StoredKey], str]:
        """Return a page of keys, newest first, and the token of the next page (empty on the last).

        Raises:
            InvalidArgument: the page token is not one of ours.
        """
        limit = page_size or DEFAULT_PAGE_SIZE
        before = decode_place(_PAGES, page_token) if page_token else None
        async with self._db.read() as tx:
            found = await Keys(tx).newest(owner_id=owner_id, before=before, limit=limit + 1)
        page = found[:limit]
        return page, encode_place(_PAGES, page[-1].created_at, page[-1].key_id) if len(found) > limit else ""

    async def revoke_key(self, caller: Caller, key_id: str) -> StoredKey:
        """Revoke a key and its sessions; a revoked key is returned as it is.

        Raises:
            NotFound: there is no such key.
        """
        async with self._db.write() as tx:
            keys = Keys(tx)
            key = await keys.find(key_id)
            if key is None:
                raise NotFound.of("key", key_id)
            if key.revoked_at is not None:
                return key
            await keys.revoke(key_id)
            await keys.note("key_revoked", actor_key_id=caller.key_id, owner=key.owner, subject_id=key_id)
            revoked = await keys.find(key_id)
        log.info("key_revoked", key_id=key_id, by_key_id=caller.key_id)
        return revoked or key

    async def update_key(self, caller: Caller, key_id: str, allowance: Allowance) -> StoredKey:
        """Set what a key may ask for, in place of what was set before.

        Raises:
            NotFound: there is no such key.
        """
        async with self._db.write() as tx:
            keys = Keys(tx)
            key = await keys.find(key_id)
            if key is None:
                raise NotFound.of("key", key_id)
            await keys.set_allowance(key_id, allowance)
            await keys.note(
                "key_updated",
                actor_key_id=caller.key_id,
                owner=key.owner,
                subject_id=key_id,
                detail=asdict(allowance),
            )
        return replace(key, allowance=allowance)

    async def get_limits(self, owner: Owner) -> Allowance:
        """Return what was set for an owner."""
        async with self._db.read() as tx:
            return (await PartyLimits(tx).find([owner])).get(owner, Allowance())

    async def put_limits(self, caller: Caller, owner: Owner, allowance: Allowance) -> None:
        """Set the limits of an owner in place of what was set before.

        Raises:
            FailedPrecondition: `owner_erased`.
        """
        async with self._db.write() as tx:
            keys = Keys(tx)
            await keys.refuse_erased(owner)
            await PartyLimits(tx).put(owner, allowance)
            await keys.note(
                "limits_set",
                actor_key_id=caller.key_id,
                owner=owner,
                subject_id=owner.owner_id,
                detail=asdict(allowance),
            )

    async def exchange_key(self, text: str) -> IssuedToken:
        """Turn a key into an identity token for five minutes, or until the key expires if that is sooner.

        Raises:
            Unauthenticated: the key is wrong, revoked or expired; which of these is not told, by words or by time.
        """
        try:
            key_id, secret = parse_api_key(text)
        except Unauthenticated:
            key_id, secret = "", Secret("")
        async with self._db.read() as tx:
            key = await Keys(tx).find_live(key_id)
            allowed = await PartyLimits(tx).find([key.owner]) if key is not None else {}
            now = await self._db.now(tx)
        matches = secret_matches(secret, key.secret_hash if key is not None else _NOBODY)
        if key is None or not matches:
            raise _refused("key")
        ttl = TOKEN_TTL if key.expires_at is None else min(TOKEN_TTL, key.expires_at - now)
        return self._signer.issue(
            owner=key.owner,
            kind=key.kind,
            key_id=key.key_id,
            scopes=SCOPES[key.scopes_of],
            ttl=ttl,
            rates=Rates(key.allowance.requests_per_minute, allowed.get(key.owner, Allowance()).requests_per_minute),
            session_of=key.parent_key_id or "",
        )

    async def key_works(self, key_id: str) -> bool:
        """Tell whether a key works now; for streams that outlive the token with which they began."""
        async with self._db.read() as tx:
            return await Keys(tx).find_live(key_id) is not None

    async def revoked_keys(self, page_token: str = "") -> tuple[list[str], str]:
        """Return the ids of keys revoked so lately that there may be tokens of theirs, and the token of the next page.

        Raises:
            InvalidArgument: the token is not one of ours.
        """
        before = decode_place(_REVOKED_PAGES, page_token) if page_token else None
        async with self._db.read() as tx:
            found = await Keys(tx).revoked_within(_REVOKED_LATELY, before=before, limit=REVOKED_AT_ONCE + 1)
        page = found[:REVOKED_AT_ONCE]
        token = encode_place(_REVOKED_PAGES, *page[-1]) if len(found) > len(page) else ""
        return [key_id for _, key_id in page], token

    async def worker_types_of(self, key_id: str) -> tuple[str, ...]:
        """Return the worker types that the workers of a key may serve; none: any."""
        async with self._db.read() as tx:
            key = await Keys(tx).find_live(key_id)
        return () if key is None else key.worker_types

    async def create_sign_in_code(self, caller: Caller) -> MadeCode:
        """Make a code with which a browser signs in once, as the caller.

        Raises:
            Unauthenticated: the caller's key does not work any more.
            ResourceExhausted: too many unused codes.
        """
        code = secrets.token_urlsafe(32)
        async with self._db.write() as tx:
            keys = Keys(tx)
            key = await keys.find_live(caller.key_id)
            if key is None:
                raise _refused("key")
            if await keys.count_live_codes(key.key_id) >= MAX_LIVE_CODES:
                raise ResourceExhausted(
                    f"There are {MAX_LIVE_CODES} unused sign-in codes of this key; use one, or wait ten minutes.",
                    retry_after=CODE_TTL,
                )
            now = await self._db.now(tx)
            made = _code_of(key, caller)
            await keys.add_code(_hash(code), made, created_at=now, expires_at=now + CODE_TTL)
        return MadeCode(Secret(code), now + CODE_TTL)

    async def exchange_sign_in_code(self, code: str) -> MadeKey:
        """Turn a code into a session: a key for twelve hours, and no longer than the key that the code comes from.

        Raises:
            Unauthenticated: the code is wrong, used or expired, or its key does not work any more.
        """
        async with self._db.write() as tx:
            keys = Keys(tx)
            used = await keys.use_up_code(_hash(code))
            if used is None or used.expired or await keys.find_live(used.key_id) is None:
                raise _refused("sign-in code")
            now = await self._db.now(tx)
            ends_at = min(now + SESSION_TTL, used.session_ends_at or now + SESSION_TTL)
            new = new_api_key()
            key = replace(
                _stored(new, KeyKind.SESSION, used.owner, "browser session", now),
                scopes_of=used.scopes_of,
                parent_key_id=used.key_id,
                expires_at=ends_at,
            )
            await keys.add(key)
            await keys.note("signed_in", actor_key_id=used.key_id, owner=used.owner, subject_id=key.key_id)
        return MadeKey(key, new.text)

    async def purge_expired(self) -> int:
        """Delete codes and sessions whose time is over; returns how many. For the reaper; safe to repeat."""
        async with self._db.write() as tx:
            return await Keys(tx).purge_expired()

    async def bootstrap(self, rings: Keyrings) -> None:
        """Make sure that the keys of the first start are there, as files and as rows.

        A file is written before its row, and a row that is missing is made from its file: whatever the last start
        did not finish, this one does. A key of one of our own services that was revoked is replaced; any other revoked
        key stays revoked.
        """
        async with self._db.write() as tx:
            # Of routers that start at once one makes the files, and the others find them.
            await self._db.lock(tx, "first_start")
            keys = Keys(tx)
            for filename, kind, owner_id in BOOTSTRAP_KEYS:
                await self._ensure_key_file(keys, rings, filename, kind, Owner(DEFAULT_TENANT, owner_id))

    async def _ensure_key_file(self, keys: Keys, rings: Keyrings, filename: str, kind: KeyKind, owner: Owner) -> None:
        there = _read_key_file(rings, filename)
        stored = await keys.find(there.key_id) if there is not None else None
        if there is not None and stored is not None and stored.secret_hash == there.secret_hash:
            if stored.revoked_at is None:
                return
            if kind is not KeyKind.SERVICE:
                log.warning("key_file_revoked", file=filename, key_id=stored.key_id)
                return
            there = None
        elif stored is not None:
            there = None
        new = there or new_api_key()
        if there is None:
            rings.write_key_file(filename, new.text)
        now = self._clock.now()
        await keys.add(_stored(new, kind, owner, f"{filename} of the first start", now))
        await keys.note("key_created", actor_key_id="router", owner=owner, subject_id=new.key_id, detail={"kind": kind})
        log.info("key_file_ready", file=filename, key_id=new.key_id)


def _read_key_file(rings: Keyrings, filename: str) -> NewKey | None:
    """Return the key of a file; None when there is none, or something else is in it."""
    try:
        return read_back(rings.read_key_file(filename))
    except (FailedPrecondition, Unauthenticated, UnicodeDecodeError):
        return None


def _stored(new: NewKey, kind: KeyKind, owner: Owner, name: str, now: datetime) -> StoredKey:
    return StoredKey(new.key_id, new.secret_hash, kind, kind, owner, name, None, now, None, None)


def _check_worker_types(kind: KeyKind, worker_types: Sequence[str]) -> None:
    if worker_types and kind is not KeyKind.WORKER:
        raise InvalidArgument.field("worker_types", f"are for keys of the kind worker, not {kind}: leave them out")
    for index, name in enumerate(worker_types):
        if not 1 <= len(name) <= _LONGEST_WORKER_TYPE or not name.isprintable():
            problem = f"must be printable text of 1..{_LONGEST_WORKER_TYPE} characters"
            raise InvalidArgument.field(f"worker_types[{index}]", problem)


def _code_of(key: StoredKey, caller: Caller) -> SignInCode:
    """Decide what a browser that signs in with the caller's code may do, and until when.

    A session comes from a real key, so that a chain of sessions lives no longer than its first. It gets the scopes of
    a user, or of an admin who acts for himself: the right to act for others never gets into a browser.
    """
    for_himself = caller.owner == key.owner
    scopes_of = KeyKind.ADMIN if for_himself and key.scopes_of is KeyKind.ADMIN else KeyKind.USER
    return SignInCode(key.parent_key_id or key.key_id, caller.owner, scopes_of, key.expires_at, expired=False)


def _hash(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()


def _refused(what: str) -> Unauthenticated:
    return Unauthenticated(f"The {what} is wrong, or works no more.", ErrorReason.INVALID_IDENTITY)
