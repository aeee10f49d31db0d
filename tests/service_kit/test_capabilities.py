"""Lease tokens, receipts and media addresses: what was signed comes back, and nothing else is believed."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import jwt
import pytest

from service_kit.capabilities import Capabilities, LeaseClaims, Receipt, ReceiptRendition, ReferenceGrant
from service_kit.clock import ManualClock
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, PermissionDenied, Unauthenticated
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.key_types import MacKey
from service_kit.keyring import Keyrings
from service_kit.media_urls import MediaGrant, MediaSigner, MediaVerifier

CLOCK = ManualClock()
LEASE = LeaseClaims(
    job_id=new_id(),
    stage=1,
    fence=7,
    owner=Owner("default", "ann"),
    max_outputs=6,
    max_bytes=1 << 30,
    formats=("image",),
    references=(ReferenceGrant("workspace-temp", "default/ann/a", "g1", new_id()),),
    expires_at=CLOCK.now() + timedelta(minutes=15),
)
RECEIPT = Receipt(
    upload_id=new_id(),
    job_id=LEASE.job_id,
    stage=1,
    fence=7,
    asset_index=0,
    bucket="workspace-temp",
    key="default/ann/j/7/0",
    generation="g2",
    sha256="ab" * 32,
    size_bytes=2**40,
    content_type="video/mp4",
    width=640,
    height=360,
    duration_ms=3000,
    renditions=(ReceiptRendition("poster", "workspace-temp", "k", "g", "cd" * 32, 10, "image/webp", 64, 36, None),),
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rings(tmp_path: Path) -> Keyrings:
    return Keyrings(tmp_path / "keys")


@pytest.fixture
def caps(rings: Keyrings, clock: ManualClock) -> Capabilities:
    return rings.capabilities(clock)


def tampered(token: str) -> str:
    head, body, signature = token.split(".")
    plain = base64.urlsafe_b64decode(body + "==").replace(b'"fence":7', b'"fence":8')
    changed = base64.urlsafe_b64encode(plain).decode().rstrip("=")
    assert changed != body
    return f"{head}.{changed}.{signature}"


def refused(verify: Any, text: str) -> AtelierError:
    with pytest.raises((Unauthenticated, InvalidArgument)) as caught:
        verify(text)
    error: AtelierError = caught.value
    return error


def test_what_was_signed_comes_back(caps: Capabilities) -> None:
    assert caps.verify_lease(caps.sign_lease(LEASE)) == LEASE
    assert caps.verify_receipt(caps.sign_receipt(RECEIPT)) == RECEIPT
    picture = replace(RECEIPT, duration_ms=None, renditions=())
    assert caps.verify_receipt(caps.sign_receipt(picture)) == picture


def test_router_and_asset_service_share_the_ring(caps: Capabilities, rings: Keyrings, clock: ManualClock) -> None:
    assert rings.capabilities(clock).verify_lease(caps.sign_lease(LEASE)) == LEASE


def test_a_changed_token_is_refused(caps: Capabilities) -> None:
    lease, receipt = caps.sign_lease(LEASE), caps.sign_receipt(RECEIPT)
    assert refused(caps.verify_lease, tampered(lease)).reason == ErrorReason.INVALID_LEASE
    assert refused(caps.verify_receipt, tampered(receipt)).fields[0].field == "receipt"
    for text in ("", "x", "a.b.c", lease + "x", lease[:-2]):
        assert type(refused(caps.verify_lease, text)) is Unauthenticated
        assert type(refused(caps.verify_receipt, text)) is InvalidArgument


def test_a_token_of_another_ring_is_refused(caps: Capabilities, tmp_path: Path, clock: ManualClock) -> None:
    other = Keyrings(tmp_path / "other").capabilities(clock)
    refused(caps.verify_lease, other.sign_lease(LEASE))
    refused(caps.verify_receipt, other.sign_receipt(RECEIPT))


def test_a_token_expires_and_a_receipt_does_not(caps: Capabilities, clock: ManualClock) -> None:
    lease, receipt = caps.sign_lease(LEASE), caps.sign_receipt(RECEIPT)
    clock.advance(timedelta(minutes=15, microseconds=-1))
    caps.verify_lease(lease)
    clock.advance(timedelta(microseconds=1))
    assert "expired" in refused(caps.verify_lease, lease).message
    clock.advance(timedelta(days=365))
    assert caps.verify_receipt(receipt) == RECEIPT


_ANY_TIME: Any = {"verify_exp": False}


def test_one_kind_is_never_taken_for_the_other(caps: Capabilities) -> None:
    refused(caps.verify_receipt, caps.sign_lease(LEASE))
    refused(caps.verify_lease, caps.sign_receipt(RECEIPT))


def test_another_version_or_algorithm_is_refused(clock: ManualClock) -> None:
    key = MacKey("k1", b"s" * 32)
    caps = Capabilities([key], clock)
    body = jwt.decode(caps.sign_lease(LEASE), options={"verify_signature": False})
    headers = {"kid": "k1"}
    assert caps.verify_lease(jwt.encode(body, key.secret, algorithm="HS256", headers=headers)) == LEASE
    refused(caps.verify_lease, jwt.encode(body | {"typ": "receipt"}, key.secret, algorithm="HS256", headers=headers))
    refused(caps.verify_lease, jwt.encode(body | {"v": 2}, key.secret, algorithm="HS256", headers=headers))
    refused(caps.verify_lease, jwt.encode(body, "", algorithm="none", headers=headers))
    refused(caps.verify_lease, jwt.encode(body, key.secret * 2, algorithm="HS512", headers=headers))
    refused(caps.verify_lease, jwt.encode(body | {"more": 1}, key.secret, algorithm="HS256", headers=headers))


def test_what_is_signed_is_a_token_as_others_read_it(caps: Capabilities, clock: ManualClock) -> None:
    key = MacKey("k1", b"s" * 32)
    told = jwt.decode(Capabilities([key], clock).sign_lease(LEASE), key.secret, algorithms=["HS256"], options=_ANY_TIME)
    assert told["job_id"] == LEASE.job_id


def test_a_made_up_token_is_refused(caps: Capabilities) -> None:
    head, body, mac = caps.sign_lease(LEASE).split(".")
    brackets = base64.urlsafe_b64encode(b"[" * 5000).decode()
    of_a_list = base64.urlsafe_b64encode(b"[1]").decode()
    for text in (
        "",
        ".",
        "..",
        "é",
        f"{head}.{body}",
        f"{head}.{body}.",
        f"{head}.{body}.{mac}=",
        f"{head}.{body}.x{mac}",
    ):
        refused(caps.verify_lease, text)
    for header in ("", "e30", of_a_list, brackets):
        refused(caps.verify_lease, f"{header}.{body}.{mac}")


def test_a_ring_may_turn(clock: ManualClock) -> None:
    old, new = MacKey("old", b"o" * 32), MacKey("new", b"n" * 32)
    before, after = Capabilities([old], clock), Capabilities([new, old], clock)
    assert after.verify_lease(before.sign_lease(LEASE)) == LEASE
    refused(before.verify_lease, after.sign_lease(LEASE))


KEY = "default/ann/a%2Eb/x y"


@pytest.fixture
def signer(rings: Keyrings, clock: ManualClock) -> MediaSigner:
    return rings.media_signer("asset", clock, base_url="http://127.0.0.1:7400/")


@pytest.fixture
def verifier(rings: Keyrings, clock: ManualClock) -> MediaVerifier:
    return rings.media_verifier(clock)


def parts(url: str) -> tuple[str, str, dict[str, str]]:
    split = urlsplit(url)
    bucket, _, key = split.path.removeprefix("/media/").partition("/")
    return bucket, unquote(key), dict(parse_qsl(split.query))


def test_an_address_opens_one_blob_until_it_expires(
    signer: MediaSigner, verifier: MediaVerifier, clock: ManualClock
) -> None:
    signed = signer.sign("workspace-temp", KEY, "g1", timedelta(hours=1))
    assert signed.url.startswith("http://127.0.0.1:7400/media/workspace-temp/")
    assert timedelta(minutes=55) < signed.expires_at - clock.now() <= timedelta(hours=1)
    assert verifier.verify(*parts(signed.url)) == MediaGrant("workspace-temp", KEY, "g1", signed.expires_at)
    clock.advance(signed.expires_at - clock.now())
    with pytest.raises(PermissionDenied, match="expired"):
        verifier.verify(*parts(signed.url))


def test_the_assets_of_a_page_do_not_expire_together_and_each_keeps_its_address(
    signer: MediaSigner, rings: Keyrings, clock: ManualClock
) -> None:
    keys = [f"default/ann/{number}" for number in range(50)]
    addresses: dict[str, list[str]] = {key: [] for key in keys}
    ends = set()
    for _ in range(60):
        for key in keys:
            signed = signer.sign("workspace-temp", key, "g1", timedelta(hours=1))
            addresses[key].append(signed.url)
            ends.add((key, signed.expires_at))
        clock.advance(timedelta(minutes=1))
    # Twelve addresses an hour for each, and one that was begun before.
    assert all(len(set(urls)) in (12, 13) for urls in addresses.values())
    assert max(Counter(moment for _, moment in ends).values()) <= 4
    changed = [sum(urls[minute] != urls[minute - 1] for urls in addresses.values()) for minute in range(1, 60)]
    assert max(changed) <= 25
    # A preview ends with its picture, whose message says when.
    preview = signer.sign("workspace-temp", "default/ann/preview", "g1", timedelta(hours=1), of=keys[0])
    assert preview.expires_at == signer.sign("workspace-temp", keys[0], "g1", timedelta(hours=1)).expires_at
    # Another replica, which shares the key, gives the same.
    replica = rings.media_signer("asset", clock, base_url="http://127.0.0.1:7400/")
    for key in keys:
        ours, theirs = (one.sign("workspace-temp", key, "g1", timedelta(hours=1)) for one in (signer, replica))
        assert ours == theirs


def test_nothing_of_an_address_can_be_changed(signer: MediaSigner, verifier: MediaVerifier) -> None:
    bucket, key, query = parts(signer.sign("workspace-temp", KEY, "g1", timedelta(hours=1)).url)
    changes: list[dict[str, str]] = [
        {"g": "g2"},
        {"expires": str(int(query["expires"]) + 1)},
        {"expires": "soon"},
        {"expires": "9" * 40},
        {"kid": "unknown"},
        {"sig": "AAAA"},
        {"sig": "é"},
    ]
    for change in changes:
        with pytest.raises(PermissionDenied):
            verifier.verify(bucket, key, query | change)
    for missing in query:
        with pytest.raises(PermissionDenied):
            verifier.verify(bucket, key, {name: value for name, value in query.items() if name != missing})
    for other in (("workspace-temp", key + "x"), ("user-library", key)):
        with pytest.raises(PermissionDenied):
            verifier.verify(*other, query)


def test_a_service_signs_for_its_own_bucket_only(
    signer: MediaSigner, verifier: MediaVerifier, rings: Keyrings, clock: ManualClock
) -> None:
    with pytest.raises(ValueError, match="workspace-temp"):
        signer.sign("user-library", KEY, "g1", timedelta(hours=1))
    asset_key = rings._signing_key("media-asset-signing.json")
    foreign = MediaSigner(asset_key, "user-library", clock, base_url="")
    with pytest.raises(PermissionDenied):
        verifier.verify(*parts(foreign.sign("user-library", KEY, "g1", timedelta(hours=1)).url))
    library = rings.media_signer("library", clock, base_url="")
    assert verifier.verify(*parts(library.sign("user-library", KEY, "g", timedelta(hours=1)).url)).key == KEY
