"""Requests per minute: of a key, of an owner with all keys, by a clock that a test moves; and what is told of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from gateway.rates import Buckets, RateLimits
from service_kit.clock import ManualClock
from service_kit.errors import ErrorReason, ResourceExhausted
from service_kit.identity import IdentityVerifier, KeyKind, Owner, Rates
from service_kit.keyring import Keyrings
from tests.gateway.conftest import MakeWorld
from tests.gateway.fakes import ANN
from tests.gateway.test_errors import check_shape

UNSAID = Rates()
ANNS, BOBS = Owner("t", "ann"), Owner("t", "bob")


class Door:
    """What counts, and the keys that come to it."""

    def __init__(self, folder: Any, usual: Rates, capacity: int = 100) -> None:
        self.clock = ManualClock()
        self._rings = Keyrings(folder)
        self._signer = self._rings.identity_signer(self.clock)
        verifier: IdentityVerifier = self._rings.identity_verifier(self.clock)
        self.limits = RateLimits(verifier, Buckets(self.clock, capacity=capacity), usual)

    def comes(
        self,
        key_id: str,
        owner: Owner = ANNS,
        *,
        rates: Rates = UNSAID,
        kind: KeyKind = KeyKind.USER,
        acting_for: str | None = None,
    ) -> ResourceExhausted | None:
        """Let a key make a request. Returns its refusal, None when there is none."""
        token = self._signer.issue(owner=owner, kind=kind, key_id=key_id, rates=rates).token.reveal()
        try:
            self.limits.count(token, acting_for)
        except ResourceExhausted as error:
            return error
        return None

    def wait(self, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1000])
def test_a_minutes_worth_comes_at_once_and_then_one_after_the_other(tmp_path: Any, per_minute: int) -> None:
    door = Door(tmp_path, Rates(per_minute, 0))
    assert [door.comes("k") for _ in range(per_minute)] == [None] * per_minute
    refused = door.comes("k")
    assert refused is not None and refused.retry_after is not None
    assert refused.retry_after.total_seconds() == pytest.approx(60 / per_minute, abs=1e-3)
    door.wait(60 / per_minute / 2)
    assert door.comes("k") is not None, "and what was refused is not counted"
    door.wait(60 / per_minute / 2)
    assert door.comes("k") is None
    assert door.comes("k") is not None
    door.wait(60)
    assert sum(door.comes("k") is None for _ in range(2 * per_minute)) == per_minute


def test_keys_count_for_themselves_and_together_for_their_owner(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(2, 3))
    assert [door.comes(key) is None for key in ("k1", "k1", "k1", "k2", "k2")] == [True, True, False, True, False]
    assert door.comes("k3", BOBS) is None
    of_key, of_owner = door.comes("k1"), door.comes("k2")
    assert of_key is not None and of_owner is not None
    assert "of this key is 2" in of_key.message and "of this owner is 3" in of_owner.message
    assert of_owner.reason is ErrorReason.TOO_MANY_REQUESTS
    assert [problem.field for problem in of_owner.fields] == ["requests_per_minute"]


def test_what_the_operator_set_takes_the_place_of_the_usual(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(1, 1))
    assert [door.comes("k", rates=Rates(2, 0)) is None for _ in range(3)] == [True, True, False]
    assert [door.comes("free", BOBS, rates=Rates(0, 0)) for _ in range(9)] == [None] * 9


def test_who_acts_for_an_owner_uses_up_that_owners_and_nobody_else_can(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(0, 2))
    shop = Owner("t", "shop")
    acting: Any = {"kind": KeyKind.INTERNAL, "acting_for": "t/ann", "rates": Rates(None, 9)}
    assert [door.comes("i", shop, **acting) is None for _ in range(3)] == [True, True, False]
    assert door.comes("a") is not None
    # A user who says so is refused by the service, and has taken nothing from anybody.
    assert [door.comes("b", BOBS, acting_for="t/cat") for _ in range(9)] == [None] * 9
    assert door.comes("c", Owner("t", "cat")) is None


def test_our_own_key_counts_only_for_those_that_it_acts_for(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(1, 2))
    ours: Any = {"owner": Owner("t", "gateway"), "kind": KeyKind.SERVICE}
    assert [door.comes("g", **ours, acting_for="t/ann") is None for _ in range(3)] == [True, True, False]
    assert door.comes("g", **ours, acting_for="t/bob") is None


def test_a_token_that_is_none_takes_nothing_from_anybody(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(1, 1))
    for _ in range(9):
        door.limits.count("ey.made.up", None)
    assert door.comes("k") is None


def test_no_more_buckets_than_there_is_room_for(tmp_path: Any) -> None:
    door = Door(tmp_path, Rates(1, 0), capacity=2)
    assert [door.comes(key) is None for key in ("k1", "k2", "k1", "k3", "k2")] == [True, True, False, True, False]
    assert door.comes("k1") is None, "what was used longest ago is forgotten"


async def test_over_http_it_is_429_with_the_limit_and_when_to_come_back(make_world: MakeWorld) -> None:
    world = await make_world(gateway__requests_per_minute_per_key=2)
    for path in ("/v1/jobs", "/v1/assets"):
        assert (await world.http.get(path, headers=ANN)).status_code == 200
    for path in ("/v1/jobs", "/v1/events", "/v1/jobs/x/events"):
        response = await world.http.get(path, headers=ANN)
        error = check_shape(response)
        assert (response.status_code, error["reason"], error["status"]) == (
            429,
            "too_many_requests",
            "RESOURCE_EXHAUSTED",
        )
        assert 29 <= int(response.headers["retry-after"]) <= 30
        assert error["fields"][0]["field"] == "requests_per_minute" and "2" in error["message"]
    assert (await world.http.get("/v1/health")).status_code == 200
    assert len(world.behaviour.seen["ListJobs"]) == 1
