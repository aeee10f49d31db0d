"""Who may: every route of the contracts without, with a wrong, and with a foreign identity; how keys become tokens."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from atelier.identity.v1 import identity_service_pb2
from atelier.type.v1 import access_pb2
from gateway.http_rules import RpcRoute, routes
from gateway.identity import Credential, Identities, credential_of
from gateway.revocations import Revocations, keys_of
from service_kit.clock import ManualClock
from service_kit.errors import Unauthenticated, Unavailable
from service_kit.identity import Caller, IdentityVerifier, IssuedToken, KeyKind, Owner
from service_kit.secret import Secret
from tests.gateway.conftest import World
from tests.gateway.fakes import ANN

ROUTES = routes()
OPEN = {"/v1/identity-tokens", "/v1/sessions"}


def _url(route: RpcRoute) -> str:
    return "/" + "/".join(segment.text or "x" for segment in route.segments)


async def test_every_route_asks_who_calls(world: World) -> None:
    for route in ROUTES:
        if not route.open:
            await _check_asks(world, route)


async def _check_asks(world: World, route: RpcRoute) -> None:
    assert route.access in (access_pb2.ACCESS_USE, access_pb2.ACCESS_ADMIN), "no client may call this RPC"
    wrong: list[dict[str, str]] = [
        {},
        {"authorization": "Bearer atl_nobody"},
        {"x-api-key": "atl_nobody"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer"},
        {"authorization": "Bearer eyJhbGciOiJub25lIn0.e30."},
        {"cookie": "atelier_session=atl_nobody"},
    ]
    for headers in wrong:
        response = await world.http.request(route.http_method, _url(route), headers=headers)
        assert response.status_code == 401, (route.template, headers, response.text)
        assert response.headers["www-authenticate"].startswith("Bearer")
        reason = response.json()["error"]["reason"]
        asked = "cookie" in headers and route.http_method != "GET"
        assert reason == ("missing_identity" if not headers or asked else "invalid_identity")
    foreign = "atl_worker" if route.access == access_pb2.ACCESS_USE else "atl_ann"
    response = await world.http.request(route.http_method, _url(route), headers={"x-api-key": foreign})
    found = (response.status_code, response.json()["error"]["reason"])
    assert found == (403, "access_denied"), route.template


def test_the_open_routes_are_these_and_no_others() -> None:
    assert {route.template for route in ROUTES if route.open} == OPEN


async def test_the_service_gets_a_token_and_never_the_key(world: World) -> None:
    for headers in (ANN, {"x-api-key": "atl_ann"}, {"authorization": "bearer  atl_ann"}):
        response = await world.http.get("/v1/jobs", headers=headers)
        assert response.status_code == 200
        metadata = world.behaviour.last("ListJobs").metadata
        assert metadata["authorization"].startswith("Bearer ey")
        assert "atl_ann" not in str(metadata)
    assert world.behaviour.exchanges == 1


async def test_a_token_of_the_client_is_passed_on(world: World) -> None:
    issued = world.services.signer.issue(owner=Owner("default", "zoe"), kind=KeyKind.USER, key_id="k")
    token = issued.token.reveal()
    response = await world.http.get("/v1/jobs", headers={"authorization": f"Bearer {token}"})
    assert response.status_code == 200
    assert world.behaviour.last("ListJobs").metadata["authorization"] == f"Bearer {token}"
    assert world.behaviour.exchanges == 0


async def test_two_different_credentials_are_refused(world: World) -> None:
    response = await world.http.get("/v1/jobs", headers={**ANN, "x-api-key": "atl_bob"})
    assert response.status_code == 401
    assert "ListJobs" not in world.behaviour.seen


async def test_the_cookie_is_good_for_get_only(world: World) -> None:
    cookie = {"cookie": "other=1; atelier_session=atl_ann"}
    assert (await world.http.get("/v1/jobs", headers=cookie)).status_code == 200
    assert (await world.http.head("/v1/jobs", headers=cookie)).status_code == 200
    for method, path in (("POST", "/v1/generate-content"), ("DELETE", "/v1/assets/x"), ("POST", "/v1/uploads")):
        response = await world.http.request(method, path, headers=cookie)
        assert (response.status_code, response.json()["error"]["reason"]) == (401, "missing_identity")


async def test_signing_in_sets_the_cookie(world: World) -> None:
    async def exchange(request: Any, context: Any) -> identity_service_pb2.ExchangeSignInCodeResponse:
        return identity_service_pb2.ExchangeSignInCodeResponse(secret="atl_session")

    world.behaviour.unary["ExchangeSignInCode"] = exchange
    response = await world.http.post("/v1/sessions", json={"code": "c"})
    assert response.status_code == 200
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("atelier_session=atl_session;")
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Secure" not in cookie


async def test_acting_for_somebody_is_the_services_to_allow(world: World) -> None:
    headers = {"x-api-key": "atl_internal", "atelier-on-behalf-of": "default/ann"}
    assert (await world.http.get("/v1/jobs", headers=headers)).status_code == 200
    assert world.behaviour.last("ListJobs").metadata["atelier-on-behalf-of"] == "default/ann"
    refused = await world.http.get("/v1/jobs", headers={**ANN, "atelier-on-behalf-of": "default/bob"})
    assert refused.status_code == 403
    other = await world.http.get("/v1/jobs", headers={**headers, "atelier-on-behalf-of": "other/ann"})
    assert other.status_code == 403
    odd = await world.http.get("/v1/jobs", headers={b"x-api-key": b"atl_internal", b"atelier-on-behalf-of": b"\xff"})
    assert odd.status_code == 403


async def test_when_the_router_is_away_a_known_key_still_works_and_a_new_one_is_told_to_wait(world: World) -> None:
    assert (await world.http.get("/v1/assets", headers=ANN)).status_code == 200
    await world.services.servers["router"].stop()
    assert (await world.http.get("/v1/assets", headers=ANN)).status_code == 200
    response = await world.http.get("/v1/assets", headers={"x-api-key": "atl_bob"})
    assert response.status_code == 503
    error = response.json()["error"]
    assert (error["status"], error["reason"], error["retry_after"]) == ("UNAVAILABLE", "service_unavailable", 1.0)
    assert response.headers["retry-after"] == "1"
    assert "127.0.0.1" not in response.text


class Exchanger:
    """Counts exchanges; waits where a test wants it to."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self, key: Secret) -> IssuedToken:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return IssuedToken(Secret(f"token-{self.calls}"), self.clock.now() + timedelta(minutes=5))


def _key(text: str) -> Credential:
    return Credential(Secret(text), is_token=False)


async def test_a_token_is_kept_until_a_minute_before_its_end() -> None:
    clock = ManualClock()
    exchange = Exchanger(clock)
    identities = Identities(exchange, clock)
    assert await identities.token(_key("a")) == "token-1"
    clock.advance(timedelta(minutes=3, seconds=59))
    assert await identities.token(_key("a")) == "token-1"
    clock.advance(timedelta(seconds=2))
    assert await identities.token(_key("a")) == "token-2"


async def test_many_requests_with_one_key_cause_one_exchange() -> None:
    clock = ManualClock()
    exchange = Exchanger(clock)
    exchange.gate.clear()
    identities = Identities(exchange, clock)
    waiting = [asyncio.create_task(identities.token(_key("a"))) for _ in range(20)]
    await asyncio.sleep(0)
    # The first one leaves; the others must not lose the exchange.
    waiting[0].cancel()
    exchange.gate.set()
    assert await asyncio.gather(*waiting[1:]) == ["token-1"] * 19
    assert exchange.calls == 1


class Verifier(IdentityVerifier):
    """Knows one token of a key and one of a session."""

    def __init__(self) -> None:
        """Needs no key."""

    def verify(self, token: str) -> Caller:
        if token not in ("of a key", "of a session"):
            raise Unauthenticated
        owner = Owner("default", "ann")
        caller = Caller(owner, owner, KeyKind.USER, frozenset(), "k", ManualClock().now())
        return replace(caller, key_id="s", session_of="k") if token == "of a session" else caller


def test_a_token_is_of_its_key_and_that_of_a_session_also_of_the_one_that_signed_in() -> None:
    assert keys_of(Verifier(), "of a key") == ("k",)
    assert set(keys_of(Verifier(), "of a session")) == {"s", "k"}
    assert keys_of(Verifier(), "nonsense") == ()


async def test_the_tokens_of_some_keys_are_forgotten() -> None:
    exchange = Exchanger(ManualClock())
    identities = Identities(exchange, exchange.clock, keys_of={"token-1": ("a",), "token-2": ("s", "b")}.__getitem__)
    assert [await identities.token(_key(name)) for name in ("a", "b")] == ["token-1", "token-2"]
    identities.forget({"x"})
    assert exchange.calls == 2
    # The key that a session comes from.
    identities.forget({"b"})
    exchange.error = Unauthenticated()
    assert await identities.token(_key("a")) == "token-1"
    with pytest.raises(Unauthenticated):
        await identities.token(_key("b"))


async def test_a_token_that_was_on_its_way_while_its_key_was_revoked_is_forgotten_at_the_next_look() -> None:
    exchange = Exchanger(ManualClock())
    identities = Identities(exchange, exchange.clock, keys_of=lambda token: ("k",))
    checks = []

    class Feeds:
        async def recheck(self) -> None:
            checks.append(exchange.calls)

    class Router:
        def unary_unary(self, *arguments: Any, **options: Any) -> Any:
            async def answer(request: Any, **options: Any) -> identity_service_pb2.ListRevokedKeysResponse:
                return identity_service_pb2.ListRevokedKeysResponse(key_ids=["k"])

            return answer

    revocations = Revocations(Router(), identities, [Feeds()], timedelta(seconds=1))  # type: ignore[arg-type]
    await revocations.look()
    assert await identities.token(_key("a")) == "token-1"
    for _ in range(2):
        await revocations.look()
    assert checks == [0, 1]
    exchange.error = Unauthenticated()
    with pytest.raises(Unauthenticated):
        await identities.token(_key("a"))


async def test_every_page_of_revoked_keys_is_read_and_one_that_names_none_is_the_last() -> None:
    exchange = Exchanger(ManualClock())
    identities = Identities(exchange, exchange.clock, keys_of=lambda token: ("last",))
    pages = {"": (["first"], "2"), "2": (["last"], "3"), "3": ([], "3")}

    class Feeds:
        async def recheck(self) -> None:
            pass

    class Router:
        def unary_unary(self, *arguments: Any, **options: Any) -> Any:
            async def answer(request: Any, **options: Any) -> identity_service_pb2.ListRevokedKeysResponse:
                key_ids, following = pages[request.page_token]
                return identity_service_pb2.ListRevokedKeysResponse(key_ids=key_ids, next_page_token=following)

            return answer

    await identities.token(_key("a"))
    async with asyncio.timeout(5):
        await Revocations(Router(), identities, [Feeds()], timedelta(seconds=1)).look()  # type: ignore[arg-type]
    exchange.error = Unauthenticated()
    with pytest.raises(Unauthenticated):
        await identities.token(_key("a"))


async def test_a_refusal_is_remembered_for_a_moment_only() -> None:
    clock = ManualClock()
    exchange = Exchanger(clock)
    exchange.error = Unauthenticated()
    identities = Identities(exchange, clock)
    for _ in range(5):
        with pytest.raises(Unauthenticated):
            await identities.token(_key("a"))
    assert exchange.calls == 1
    clock.advance(timedelta(seconds=3))
    exchange.error = None
    assert await identities.token(_key("a")) == "token-2"


async def test_an_outage_is_not_remembered() -> None:
    clock = ManualClock()
    exchange = Exchanger(clock)
    exchange.error = Unavailable()
    identities = Identities(exchange, clock)
    with pytest.raises(Unavailable):
        await identities.token(_key("a"))
    exchange.error = None
    assert await identities.token(_key("a")) == "token-2"


async def test_the_cache_is_bounded_and_forgets_who_came_longest_ago() -> None:
    clock = ManualClock()
    exchange = Exchanger(clock)
    identities = Identities(exchange, clock, capacity=2)
    for name in ("a", "b", "a", "c", "a"):
        await identities.token(_key(name))
    assert exchange.calls == 3
    await identities.token(_key("b"))
    assert exchange.calls == 4


def test_a_credential_never_shows_itself() -> None:
    found = credential_of({"authorization": "Bearer atl_secret"}, "GET")
    assert found is not None and "atl_secret" not in repr(found)


def test_the_cookie_ends_with_its_session() -> None:
    from gateway.identity import session_cookie

    now = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
    cookie = session_cookie("atl_x", now + timedelta(hours=12), now, secure=True)
    assert "Max-Age=43200" in cookie and "Secure" in cookie
