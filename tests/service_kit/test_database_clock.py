"""A step of the machine's clock ends nothing that somebody still holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from service_kit.capabilities import Capabilities, LeaseClaims
from service_kit.clock import ManualClock, SystemClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.errors import Unauthenticated
from service_kit.identity import Owner
from service_kit.key_types import MacKey

STEP = timedelta(hours=2)


class SteppedClock(SystemClock):
    """The machine's clock, which somebody sets."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.fixture
def machine() -> SteppedClock:
    return SteppedClock()


@pytest_asyncio.fixture
async def db(postgres_url: str, machine: SteppedClock) -> AsyncIterator[Database]:
    db = Database(postgres_url, schema="kit", clock=machine)
    yield db
    await db.close()


def lease(expires_at: datetime) -> LeaseClaims:
    return LeaseClaims("job", 0, 1, Owner("default", "ada"), 1, 1, ("image",), (), expires_at)


async def test_a_lease_token_outlives_a_step_of_the_clock(db: Database, machine: SteppedClock) -> None:
    clock = DatabaseClock(db)
    await clock.look()
    capabilities = Capabilities([MacKey("k", b"secret")], clock)
    token = capabilities.sign_lease(lease(datetime.now(UTC) + timedelta(minutes=15)))
    for machine.ahead in (STEP, -STEP, timedelta(0)):
        assert capabilities.verify_lease(token).job_id == "job"
        await clock.look()
        assert capabilities.verify_lease(token).job_id == "job"


async def test_what_has_expired_for_the_database_has_expired(db: Database, machine: SteppedClock) -> None:
    machine.ahead = -STEP
    clock = DatabaseClock(db)
    await clock.look()
    capabilities = Capabilities([MacKey("k", b"secret")], clock)
    with pytest.raises(Unauthenticated, match="has expired"):
        capabilities.verify_lease(capabilities.sign_lease(lease(datetime.now(UTC) - timedelta(minutes=1))))


async def test_time_passes_between_two_looks(
    db: Database, machine: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = DatabaseClock(db)
    await clock.look()
    before, began = clock.now(), machine.monotonic()
    monkeypatch.setattr(machine, "monotonic", lambda: began + 3600)
    assert timedelta(minutes=59) < clock.now() - before < timedelta(minutes=61)


async def test_a_clock_that_a_test_moves_is_followed(postgres_url: str) -> None:
    moved = ManualClock()
    db = Database(postgres_url, schema="kit", clock=moved)
    try:
        clock = DatabaseClock(db)
        await clock.look()
        moved.advance(STEP)
        assert clock.now() == moved.now()
        assert clock.monotonic() == moved.monotonic()
    finally:
        await db.close()
