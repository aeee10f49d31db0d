"""The identities of one router, for tests of keys, codes and sessions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from router_service.identity import Identities, MadeKey
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.identity import SCOPES, Caller, KeyKind, Owner
from service_kit.keyring import Keyrings


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
