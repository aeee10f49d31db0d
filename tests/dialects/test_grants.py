"""Signed addresses: what they open, for whom, until when."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.backends import metadata
from gateway.dialects.grants import Grants
from service_kit.clock import ManualClock
from service_kit.errors import PermissionDenied, Unauthenticated
from service_kit.identity import IdentitySigner, KeyKind, Owner
from service_kit.keyring import Keyrings
from service_kit.secret import Secret

HOUR = timedelta(hours=1)


class House:
    """Grants, and tokens of users."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.rings = Keyrings(folder)
        self.signer: IdentitySigner = self.rings.identity_signer(self.clock)
        self.grants = self.of("atl_gateway")

    def of(self, key: str) -> Grants:
        return Grants(lambda: Secret(key), self.rings.identity_verifier(self.clock), self.clock)

    def calls(self, kind: KeyKind = KeyKind.USER, acting_for: str | None = None) -> tuple[tuple[str, str], ...]:
        token = self.signer.issue(owner=Owner("default", "ann/ä"), kind=kind, key_id="k").token
        return metadata("r", token.reveal(), acting_for)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_a_grant_opens_what_it_was_made_for(house: House) -> None:
    text = house.grants.sign(house.calls(), "stream", "job-1", HOUR)
    grant = house.grants.read(text, "stream")
    assert (grant.subject, grant.owner, grant.key_id) == ("job-1", "default/ann%2F%C3%A4", "k")
    # Another gateway of the same installation knows it, one of another does not.
    assert house.of("atl_gateway").read(text, "stream") == grant
    for other, purpose in ((house.of("atl_other"), "stream"), (house.grants, "upload")):
        with pytest.raises(Unauthenticated):
            other.read(text, purpose)


def test_a_grant_ends(house: House) -> None:
    text = house.grants.sign(house.calls(), "stream", "job-1", HOUR)
    house.clock.advance(HOUR - timedelta(seconds=1))
    assert house.grants.read(text, "stream").subject == "job-1"
    house.clock.advance(timedelta(seconds=1))
    with pytest.raises(Unauthenticated, match="no more"):
        house.grants.read(text, "stream")


def test_a_grant_that_was_changed_opens_nothing(house: House) -> None:
    text = house.grants.sign(house.calls(), "stream", "job-1", HOUR)
    payload, signature = text.split(".")
    said = json.loads(base64.urlsafe_b64decode(payload + "=="))
    said[2] = "default/bob"
    forged = base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=").decode()
    for wrong in (f"{forged}.{signature}", payload, f"{payload}.", f".{signature}", "", "..", "é.é", "x" * 2000):
        with pytest.raises(Unauthenticated):
            house.grants.read(wrong, "stream")


def test_only_who_may_act_for_an_owner_signs_for_it(house: House) -> None:
    for kind, owner in ((KeyKind.INTERNAL, "default/bob"), (KeyKind.SERVICE, "elsewhere/bob")):
        text = house.grants.sign(house.calls(kind, owner), "stream", "job-1", HOUR)
        assert house.grants.read(text, "stream").owner == owner
    for kind, owner in ((KeyKind.USER, "default/bob"), (KeyKind.INTERNAL, "elsewhere/bob")):
        with pytest.raises(PermissionDenied):
            house.grants.sign(house.calls(kind, owner), "stream", "job-1", HOUR)
    with pytest.raises(Unauthenticated):
        house.grants.sign(metadata("r", "ey.no.token"), "stream", "job-1", HOUR)
