"""Keys of media addresses rotate: what is signed works until it says, whoever verifies, whichever replica signed."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from service_kit.clock import ManualClock
from service_kit.errors import PermissionDenied
from service_kit.key_types import SigningKey
from service_kit.keyring import Keyrings
from service_kit.media_urls import MediaGrant, MediaRotation, MediaVerifier

LIFETIME = timedelta(days=30)
TTL = timedelta(days=7)


@pytest.fixture
def clock() -> ManualClock:
    # Not before the rings, which are made at the true time.
    return ManualClock(datetime.now(UTC) + timedelta(seconds=1))


@pytest.fixture
def rings(tmp_path: Path) -> Keyrings:
    return Keyrings(tmp_path / "keys")


async def opened(verifier: MediaVerifier, url: str) -> MediaGrant:
    parts = urlsplit(url)
    bucket, _, key = parts.path.removeprefix("/media/").partition("/")
    query = dict(parse_qsl(parts.query))
    await verifier.learn(query["kid"])
    return verifier.verify(bucket, unquote(key), query)


async def test_an_address_outlives_the_key_that_signed_it(rings: Keyrings, clock: ManualClock) -> None:
    signer = rings.media_signer("asset", clock, base_url="http://x")
    rotation = rings.media_rotation("asset", signer, clock, lifetime=LIFETIME)
    verifier = rings.media_verifier(clock)
    used = set()
    for _ in range(12):
        await rotation.look()
        signed = signer.sign("workspace-temp", "a", "g", TTL)
        used.add(dict(parse_qsl(urlsplit(signed.url).query))["kid"])
        assert TTL * 11 / 12 <= signed.expires_at - clock.now() <= TTL
        clock.advance(signed.expires_at - clock.now() - timedelta(seconds=1))
        await rotation.look()
        assert (await opened(verifier, signed.url)).expires_at == signed.expires_at
        assert (await opened(rings.media_verifier(clock), signed.url)).key == "a"
        clock.advance(timedelta(seconds=1))
        with pytest.raises(PermissionDenied, match="expired"):
            await opened(verifier, signed.url)
    assert len(used) == 3, "about 80 days and 30 days for each key"


async def test_a_key_that_signed_far_too_long_still_verifies_what_it_signed_last(
    rings: Keyrings, clock: ManualClock
) -> None:
    signer = rings.media_signer("library", clock, base_url="http://x")
    clock.advance(LIFETIME * 10)
    signed = signer.sign("user-library", "a", "g", TTL)
    await rings.media_rotation("library", signer, clock, lifetime=LIFETIME).look()
    assert signer.sign("user-library", "a", "g", TTL).url != signed.url
    assert (await opened(rings.media_verifier(clock), signed.url)).key == "a"


async def test_an_old_key_is_forgotten_at_last(rings: Keyrings, clock: ManualClock, tmp_path: Path) -> None:
    signer = rings.media_signer("asset", clock, base_url="http://x")
    rotation = rings.media_rotation("asset", signer, clock, lifetime=LIFETIME)
    signed = signer.sign("workspace-temp", "a", "g", LIFETIME * 4)
    for _ in range(3):
        clock.advance(LIFETIME)
        await rotation.look()
    with pytest.raises(PermissionDenied, match="not signed"):
        await opened(rings.media_verifier(clock), signed.url)
    assert (tmp_path / "keys" / "media-verify.json").read_text().count('"kid"') == 3, (
        "two of this bucket, and another's"
    )
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_replicas_take_up_one_and_the_same_new_key(rings: Keyrings, clock: ManualClock) -> None:
    signers = [rings.media_signer("asset", clock, base_url="http://x") for _ in range(3)]
    verifier = rings.media_verifier(clock)
    other = rings.media_signer("library", clock, base_url="http://x").sign("user-library", "b", "g", LIFETIME * 3)
    clock.advance(LIFETIME)
    for signer in signers:
        await rings.media_rotation("asset", signer, clock, lifetime=LIFETIME).look()
    urls = {signer.sign("workspace-temp", "a", "g", TTL).url for signer in signers}
    assert len(urls) == 1
    assert (await opened(verifier, urls.pop())).key == "a", "a gateway that runs already learns the key"
    assert (await opened(verifier, other.url)).key == "b", "the other bucket's key stays"


async def test_where_keys_cannot_be_written_the_old_one_signs_on(rings: Keyrings, clock: ManualClock) -> None:
    def refused(now: datetime) -> SigningKey:
        raise PermissionError("read-only")

    signer = rings.media_signer("asset", clock, base_url="http://x")
    await MediaRotation(signer, refused, clock).look()
    assert (await opened(rings.media_verifier(clock), signer.sign("workspace-temp", "a", "g", TTL).url)).key == "a"


async def test_forged_key_ids_do_not_have_the_ring_read_each_time(rings: Keyrings, clock: ManualClock) -> None:
    reads = 0

    def read() -> list[object]:
        nonlocal reads
        reads += 1
        return []

    verifier = MediaVerifier(read, clock)  # type: ignore[arg-type]
    for _ in range(100):
        clock.advance(timedelta(milliseconds=100))
        await verifier.learn("forged")
    assert reads == 1 + 5


def test_a_file_keeps_its_address_for_a_while_and_each_has_its_own(rings: Keyrings, clock: ManualClock) -> None:
    signer = rings.media_signer("asset", clock, base_url="http://x")
    blobs = (("a", "1"), ("a", "2"), ("b", "1"))
    assert len({signer.sign("workspace-temp", *blob, TTL).url for blob in blobs}) == 3
    for blob in blobs:
        first = signer.sign("workspace-temp", *blob, TTL)
        clock.advance(first.expires_at - TTL * 11 / 12 - clock.now() - timedelta(seconds=1))
        assert signer.sign("workspace-temp", *blob, TTL) == first
        clock.advance(timedelta(seconds=1))
        again = signer.sign("workspace-temp", *blob, TTL)
        assert again.expires_at - first.expires_at == TTL / 12
        assert signer.sign("workspace-temp", *blob, TTL / 2).url != again.url
