"""Decided once: rings of mode 0600; five-minute Ed25519 tokens; keys stored hashed; who may act for whom."""

from __future__ import annotations

import asyncio
import base64
import json
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest

from service_kit import identity, keyring
from service_kit.api_keys import new_api_key, parse_api_key, secret_matches
from service_kit.capabilities import current_lease
from service_kit.clock import ManualClock
from service_kit.errors import ErrorReason, FailedPrecondition, PermissionDenied, Unauthenticated
from service_kit.identity import (
    SCOPES,
    Caller,
    IssuedToken,
    KeyKind,
    Owner,
    Scope,
    TokenSource,
    acting_as,
    current_caller,
    on_behalf_of,
    parse_on_behalf_of,
)
from service_kit.keyring import Keyrings
from service_kit.secret import Secret

ANN = Owner("default", "ann")
RINGS = {
    "identity-signing.json",
    "identity-verify.json",
    "capability.json",
    "media-asset-signing.json",
    "media-library-signing.json",
    "media-verify.json",
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rings(tmp_path: Path) -> Keyrings:
    return Keyrings(tmp_path / "keys")


def caller(kind: KeyKind, owner: Owner = ANN) -> Caller:
    return Caller(owner, owner, kind, SCOPES[kind], "k", ManualClock().now())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_ring_is_made_for_its_owner_only(rings: Keyrings, tmp_path: Path, clock: ManualClock) -> None:
    rings.media_verifier(clock), rings.capabilities(clock), rings.identity_verifier(clock)
    files = {path.name: path for path in (tmp_path / "keys").iterdir()}
    assert set(files) == RINGS
    assert {mode(path) for path in files.values()} == {0o600}
    assert mode(tmp_path / "keys") == 0o700
    for name in ("identity-verify.json", "media-verify.json"):
        assert "private" not in files[name].read_text()


def test_a_key_file_has_one_line_and_is_for_its_owner_only(rings: Keyrings) -> None:
    path = rings.write_key_file("admin.key", Secret("atl_x"))
    assert path.read_text() == "atl_x\n"
    assert mode(path) == 0o600
    rings.write_key_file("admin.key", Secret("atl_y"))
    assert rings.read_key_file("admin.key").reveal() == "atl_y"
    with pytest.raises(FailedPrecondition, match=r"gateway\.key.*start the router"):
        rings.read_key_file("gateway.key")


def test_of_processes_that_start_at_once_all_use_the_same_rings(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from service_kit.keyring import Keyrings
from service_kit.clock import SystemClock
from service_kit.identity import Owner, KeyKind
rings = Keyrings(Path({str(tmp_path / "keys")!r}))
verifier = rings.identity_verifier(SystemClock())
print(rings.identity_signer(SystemClock()).issue(owner=Owner("t", "o"), kind=KeyKind.USER, key_id="k").token.reveal())
"""
    root = Path(__file__).parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(4)
    ]
    tokens = [process.communicate()[0].strip() for process in running]
    assert len({jwt.get_unverified_header(token)["kid"] for token in tokens}) == 1
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"identity-signing.json", "identity-verify.json"}


def test_who_comes_second_uses_the_ring_of_the_first(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Keyrings(tmp_path / "keys"), Keyrings(tmp_path / "keys")
    new_ring = keyring._new_mac_ring

    def overtaken() -> list[dict[str, str]]:
        monkeypatch.undo()
        first.capabilities(clock)
        return new_ring()

    monkeypatch.setattr(keyring, "_new_mac_ring", overtaken)
    ours = second.capabilities(clock)
    assert ours._keys == first.capabilities(clock)._keys
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["capability.json"]


def test_a_ring_that_is_damaged_or_newer_is_refused(rings: Keyrings, tmp_path: Path, clock: ManualClock) -> None:
    rings.capabilities(clock)
    path = tmp_path / "keys" / "capability.json"
    ring = json.loads(path.read_text())
    path.write_text(json.dumps(ring | {"version": 2}))
    with pytest.raises(FailedPrecondition, match="has version 2"):
        rings.capabilities(clock)
    path.write_text("{")
    with pytest.raises(FailedPrecondition, match="damaged"):
        rings.capabilities(clock)


@pytest.mark.parametrize("kind", list(SCOPES))
def test_a_token_tells_who_calls(rings: Keyrings, clock: ManualClock, kind: KeyKind) -> None:
    issued = rings.identity_signer(clock).issue(owner=ANN, kind=kind, key_id="0123")
    found = rings.identity_verifier(clock).verify(issued.token.reveal())
    assert (found.owner, found.actor, found.kind, found.key_id) == (ANN, ANN, kind, "0123")
    assert found.scopes == SCOPES[kind]
    assert found.expires_at == issued.expires_at == clock.now() + timedelta(minutes=5)
    assert issued.token.reveal() not in repr(issued)


def test_a_session_has_the_scopes_of_the_key_that_made_it(rings: Keyrings, clock: ManualClock) -> None:
    scopes = SCOPES[KeyKind.ADMIN]
    issued = rings.identity_signer(clock).issue(owner=ANN, kind=KeyKind.SESSION, key_id="k", scopes=scopes)
    assert rings.identity_verifier(clock).verify(issued.token.reveal()).scopes == scopes


def test_a_token_expires_after_five_minutes(rings: Keyrings, clock: ManualClock) -> None:
    token = rings.identity_signer(clock).issue(owner=ANN, kind=KeyKind.USER, key_id="k").token.reveal()
    verifier = rings.identity_verifier(clock)
    clock.advance(timedelta(seconds=299))
    verifier.verify(token)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)
    assert caught.value.reason == ErrorReason.EXPIRED_IDENTITY


def test_a_token_is_checked_once_and_the_oldest_is_forgotten(
    rings: Keyrings, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_MOST_KNOWN", 2)
    signer, verifier = rings.identity_signer(clock), rings.identity_verifier(clock)
    tokens = [signer.issue(owner=ANN, kind=KeyKind.USER, key_id="k").token.reveal() for _ in range(3)]
    callers = [verifier.verify(token) for token in tokens]
    assert verifier.verify(tokens[2]) is callers[2]
    again = verifier.verify(tokens[0])
    assert again == callers[0] and again is not callers[0]
    with pytest.raises(Unauthenticated):
        verifier.verify(tokens[2] + "x")


def forged(token: str, key: Any, algorithm: str = "EdDSA", **changes: Any) -> str:
    claims = jwt.decode(token, options={"verify_signature": False})
    header = jwt.get_unverified_header(token)
    claims = {name: value for name, value in (claims | changes).items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": header["kid"]})


def test_whatever_was_changed_is_refused(rings: Keyrings, tmp_path: Path, clock: ManualClock) -> None:
    token = rings.identity_signer(clock).issue(owner=ANN, kind=KeyKind.USER, key_id="k").token.reveal()
    verifier = rings.identity_verifier(clock)
    ring = json.loads((tmp_path / "keys" / "identity-signing.json").read_text())["keys"][0]
    own = rings._signing_key("identity-signing.json").private
    other = Keyrings(tmp_path / "other")._signing_key("identity-signing.json").private
    head, body, signature = token.split(".")
    richer = (
        base64.urlsafe_b64encode(base64.urlsafe_b64decode(body + "==").replace(b'"use"', b'"adm"')).decode().rstrip("=")
    )
    assert verifier.verify(forged(token, own)).owner == ANN
    bad = [
        "",
        "x",
        f"{head}.{richer}.{signature}",
        forged(token, other),
        forged(token, own, iss="somebody"),
        forged(token, own, aud="somebody"),
        forged(token, own, exp=None),
        forged(token, own, tid=None),
        forged(token, own, knd="emperor"),
        forged(token, own, scp=["everything"]),
        forged(token, None, "none"),
        forged(token, ring["private"], "HS256"),
    ]
    for text in bad:
        with pytest.raises(Unauthenticated) as caught:
            verifier.verify(text)
        assert caught.value.reason == ErrorReason.INVALID_IDENTITY


def test_only_who_may_act_for_others_does() -> None:
    bob, stranger = Owner("default", "bob"), Owner("other", "bob")
    internal, service = caller(KeyKind.INTERNAL), caller(KeyKind.SERVICE)
    assert (internal.acting_for(bob).owner, internal.acting_for(bob).actor) == (bob, ANN)
    assert service.acting_for(stranger).owner == stranger
    for kind in (KeyKind.USER, KeyKind.ADMIN, KeyKind.WORKER):
        with pytest.raises(PermissionDenied):
            caller(kind).acting_for(bob)
    with pytest.raises(PermissionDenied, match="own tenant"):
        internal.acting_for(stranger)


def test_scopes_by_kind_of_key() -> None:
    assert {kind: set(scopes) for kind, scopes in SCOPES.items()} == {
        KeyKind.USER: {Scope.USE},
        KeyKind.ADMIN: {Scope.USE, Scope.ADMIN},
        KeyKind.WORKER: {Scope.WORK},
        KeyKind.INTERNAL: {Scope.USE, Scope.ACT},
        KeyKind.SERVICE: {Scope.USE, Scope.ACT, Scope.SERVICE},
    }


@pytest.mark.parametrize("owner", [ANN, Owner("a/b", "日本 %2F"), Owner("..", "/")])
def test_any_owner_travels_in_metadata(owner: Owner) -> None:
    [(key, text)] = on_behalf_of(owner)
    assert key == "atelier-on-behalf-of"
    assert text.isascii() and text.count("/") == 1
    assert parse_on_behalf_of(text) == owner


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "/b", "a/", "a/b/c"),
        # Two owners that differ in bytes that are no UTF-8 must not become one; ids go into logs, paths and rows.
        *("a/%ff", "%fe/b", "a/%00", "a/b%0a", "a/%20", "a/b%20", "a/ann%40example.org", "a/" + "b" * 129),
    ],
)
def test_an_owner_of_another_shape_is_refused(text: str) -> None:
    with pytest.raises(PermissionDenied):
        parse_on_behalf_of(text)


def test_outside_of_a_call_nobody_calls() -> None:
    with pytest.raises(Unauthenticated):
        current_caller()
    with pytest.raises(Unauthenticated):
        current_lease()
    with acting_as(caller(KeyKind.USER)):
        assert current_caller().owner == ANN
    with pytest.raises(Unauthenticated):
        current_caller()


async def test_a_token_is_exchanged_once_and_again_before_it_expires(clock: ManualClock) -> None:
    exchanged: list[int] = []

    async def exchange() -> IssuedToken:
        exchanged.append(1)
        await asyncio.sleep(0)
        return IssuedToken(Secret(f"token {len(exchanged)}"), clock.now() + timedelta(minutes=5))

    tokens = TokenSource(exchange, clock)
    assert set(await asyncio.gather(*(tokens.get() for _ in range(10)))) == {"token 1"}
    clock.advance(timedelta(seconds=239))
    assert await tokens.get() == "token 1"
    clock.advance(timedelta(seconds=1))
    assert await tokens.get() == "token 2"
    tokens.forget()
    assert await tokens.get() == "token 3"


def test_an_api_key_is_text_once_and_a_hash_for_ever() -> None:
    new = new_api_key()
    text = new.text.reveal()
    key_id, secret = parse_api_key(text)
    assert key_id == new.key_id
    assert text == f"atl_{key_id}_{secret.reveal()}"
    assert len(base64.urlsafe_b64decode(secret.reveal() + "=")) == 32
    assert secret.reveal() not in new.secret_hash + repr(new)
    assert secret_matches(secret, new.secret_hash)
    assert not secret_matches(Secret(secret.reveal()[:-1] + "!"), new.secret_hash)
    assert new_api_key().text != new.text


@pytest.mark.parametrize(
    "change",
    [lambda t: "", lambda t: t[:-1], lambda t: t + "x", lambda t: t.upper(), lambda t: "x" + t, lambda t: t + "\n"],
)
def test_a_text_that_is_no_key_is_refused_and_not_repeated(change: Any) -> None:
    text = change(new_api_key().text.reveal())
    with pytest.raises(Unauthenticated) as caught:
        parse_api_key(text)
    assert not text or text not in str(caught.value)
