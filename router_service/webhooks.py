"""Webhooks: gives deliveries to gateways, notes what receivers answered, and keeps the secrets of owners.

A secret is made from a key of the ring of webhooks, the owner and a nonce: who reads the database cannot sign.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from router_service.domain import Job
from router_service.storage import Storage, Transaction
from router_service.storage.webhooks import SecretSeed
from router_service.webhook_domain import (
    GONE,
    Delivery,
    DeliveryState,
    Report,
    Webhook,
    is_taken,
    retry_delay,
)
from service_kit import crash
from service_kit.destinations import Destinations, check_url
from service_kit.errors import Aborted, FailedPrecondition, ResourceExhausted
from service_kit.identity import Owner
from service_kit.key_types import MacKey
from service_kit.paging import decode_place, encode_place
from service_kit.secret import Secret
from service_kit.telemetry import get_logger

log = get_logger(__name__)

OLD_SECRET_SIGNS = timedelta(hours=24)
MOST_OLD_SECRETS = 4
_PAGES = "router.webhook_deliveries"
_SHORTEST_LEASE, _LONGEST_LEASE = timedelta(seconds=1), timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Some deliveries, newest first; the token is empty on the last page."""

    deliveries: tuple[Delivery, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Leased:
    """A delivery that a gateway has for a time, with the job as it was, and what to sign with, the newest first."""

    delivery: Delivery
    job: Job
    secrets: tuple[Secret, ...]


class Webhooks:
    """Everything that the router does about webhooks but write them, which transitions of jobs do."""

    def __init__(
        self,
        storage: Storage,
        keys: Sequence[MacKey],
        destinations: Destinations,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Make secrets with the first of `keys`; spread repetitions by `chance`, which returns 0..1."""
        self._storage = storage
        self._keys: Mapping[str, MacKey] = {key.key_id: key for key in keys}
        self._newest = keys[0]
        self._destinations = destinations
        self._chance = chance

    def check(self, webhook: Webhook | None) -> None:
        """Check where a new job's webhook leads. Raises InvalidArgument for an address that is refused."""
        if webhook is not None:
            check_url(self._destinations, webhook.url, "webhook.url")

    # --- the log ----------------------------------------------------------------------------------------------------

    async def list(
        self, owner: Owner, *, job_id: str, state: DeliveryState | None, page_size: int, page_token: str
    ) -> DeliveryPage:
        """Return a page of an owner's deliveries. Raises InvalidArgument for a token that is not one of ours."""
        before = decode_place(_PAGES, page_token) if page_token else None
        async with self._storage.read() as tx:
            found = await tx.deliveries.find_page(owner, job_id=job_id, state=state, before=before, limit=page_size + 1)
        page = tuple(found[:page_size])
        return DeliveryPage(
            page, encode_place(_PAGES, page[-1].created_at, page[-1].delivery_id) if len(found) > page_size else ""
        )

    async def redeliver(self, delivery_id: str, owner: Owner) -> Delivery:
        """Let a delivery be sent again, with all its repetitions. Raises NotFound."""
        async with self._storage.write() as tx:
            before = await tx.deliveries.lock_owned(delivery_id, owner)
            after = replace(
                before,
                state=DeliveryState.PENDING,
                tries=0,
                lease=before.lease + 1,
                due_at=await tx.now(),
                finished_at=None,
            )
            await tx.deliveries.save([(before, after)])
        return after

    # --- sending ----------------------------------------------------------------------------------------------------

    async def lease(
        self, *, limit: int, lease_for: timedelta, most_per_owner: int | None = None, busy: Collection[Owner] = ()
    ) -> Sequence[Leased]:
        """Give out deliveries that are due, of owners who are not busy. Nothing is sent for one who was erased."""
        lease_for = min(max(lease_for, _SHORTEST_LEASE), _LONGEST_LEASE)
        async with self._storage.read() as tx:
            if not await tx.deliveries.any_due():
                return []
        async with self._storage.write() as tx:
            found = await tx.deliveries.lease_due(
                limit=limit, lease_for=lease_for, most_per_owner=most_per_owner or limit, busy=busy
            )
            if found:
                crash.reach("router.webhooks.lease.before_commit")
        owners = {delivery.owner for delivery, _ in found}
        # In a transaction of its own: an erasure holds its lock while it deletes what was leased.
        async with self._storage.write() as tx:
            erased = await tx.erased.among(owners) if owners else set()
            keys = {owner: self._known(await self._seeds_of(tx, owner), owner) for owner in owners - erased}
        return [Leased(delivery, job, keys[delivery.owner]) for delivery, job in found if keys.get(delivery.owner)]

    async def report(self, reports: Sequence[Report]) -> None:
        """Note what receivers answered. A report of an old lease changes nothing."""
        by_id = {report.delivery_id: report for report in reports}
        async with self._storage.write() as tx:
            current = await tx.deliveries.lock(by_id)
            now = await tx.now()
            changed = [
                (delivery, self._answered(delivery, by_id[delivery.delivery_id], now))
                for delivery in current.values()
                if delivery.state is DeliveryState.PENDING and delivery.lease == by_id[delivery.delivery_id].lease
            ]
            await tx.deliveries.save(changed)
            crash.reach("router.webhooks.report.before_commit")
        for _, delivery in changed:
            if delivery.state is DeliveryState.GIVEN_UP:
                log.warning("webhook_given_up", delivery_id=delivery.delivery_id, status=delivery.last_status)

    def _answered(self, before: Delivery, report: Report, now: datetime) -> Delivery:
        after = replace(
            before,
            attempts=before.attempts + 1,
            tries=before.tries + 1,
            attempted_at=now,
            last_status=report.status,
            last_error="" if is_taken(report.status) else report.error or f"The receiver answered {report.status}.",
        )
        if is_taken(report.status):
            return replace(after, state=DeliveryState.DELIVERED, due_at=None, finished_at=now)
        delay = retry_delay(after.tries, self._chance())
        if delay is None or report.status == GONE:
            return replace(after, state=DeliveryState.GIVEN_UP, due_at=None, finished_at=now)
        return replace(after, due_at=now + delay)

    # --- secrets ----------------------------------------------------------------------------------------------------

    async def secret(self, owner: Owner) -> tuple[Secret, datetime]:
        """Return what an owner's webhooks are signed with, and since when. Raises FailedPrecondition when erased."""
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            seed = (await self._seeds_of(tx, owner))[0]
        return self._made_from(seed, owner), seed.created_at

    async def rotate(self, owner: Owner) -> tuple[Secret, datetime]:
        """Make a new secret for an owner. Returns it, and until when those before sign, too.

        Raises:
            FailedPrecondition: the owner was erased.
            ResourceExhausted: four old ones still sign.
            Aborted: another call made one at the same moment.
        """
        async with self._storage.write() as tx:
            await tx.erased.refuse(owner)
            before = await self._seeds_of(tx, owner)
            if len(before) > MOST_OLD_SECRETS:
                raise ResourceExhausted(f"{MOST_OLD_SECRETS} old secrets still sign, each for 24 hours; wait.")
            position = before[0].position + 1
            if not await tx.secret_seeds.add(owner, position, key_id=self._newest.key_id, nonce=secrets.token_hex(16)):
                raise Aborted("Another call made a new secret at the same moment; repeat.")
            await tx.secret_seeds.retire(owner, before=position)
            seed = (await self._seeds_of(tx, owner))[0]
        return self._made_from(seed, owner), seed.created_at + OLD_SECRET_SIGNS

    async def _seeds_of(self, tx: Transaction, owner: Owner) -> Sequence[SecretSeed]:
        """Return what signs for an owner, the newest first; the first one is made when it is first asked for."""
        seeds = (await tx.secret_seeds.find([owner], retired_within=OLD_SECRET_SIGNS)).get(owner)
        if not seeds:
            await tx.secret_seeds.add(owner, 1, key_id=self._newest.key_id, nonce=secrets.token_hex(16))
            seeds = (await tx.secret_seeds.find([owner], retired_within=OLD_SECRET_SIGNS))[owner]
        return seeds

    def _known(self, seeds: Sequence[SecretSeed], owner: Owner) -> tuple[Secret, ...]:
        known = [seed for seed in seeds if seed.key_id in self._keys]
        if not known:
            log.error("webhook_key_missing", key_id=seeds[0].key_id)
        return tuple(self._made_from(seed, owner) for seed in known)

    def _made_from(self, seed: SecretSeed, owner: Owner) -> Secret:
        key = self._keys.get(seed.key_id)
        if key is None:
            raise FailedPrecondition(
                "The key that the webhook secret was made with is not in the ring: restore it, or rotate the secret."
            )
        text = json.dumps(["atelier.webhook", owner.tenant_id, owner.owner_id, seed.position, seed.nonce])
        made = hmac.new(key.secret, text.encode(), hashlib.sha256).digest()
        return Secret("whsec_" + base64.b64encode(made).decode("ascii"))
