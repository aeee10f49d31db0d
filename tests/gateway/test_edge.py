"""Before the handlers: names, origins, headers; and whether the gateway may start at all."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.__main__ import start
from service_kit.errors import FailedPrecondition
from service_kit.settings import SettingsError, for_tests
from tests.gateway.conftest import MakeWorld, World
from tests.gateway.fakes import ANN


async def test_every_answer_has_its_headers(world: World) -> None:
    for path in ("/v1/health", "/v1/nothing", "/v1/jobs"):
        headers = (await world.http.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"]
        assert "server" not in headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:7400", "[::1]:80", "LOCALHOST", "art.example:8443"])
async def test_our_own_names_are_taken(make_world: MakeWorld, host: str) -> None:
    world = await make_world(core__public_url="https://art.example")
    assert (await world.http.get("/v1/jobs", headers={**ANN, "host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "[::1", ""])
async def test_other_names_are_refused_on_loopback(world: World, host: str) -> None:
    response = await world.http.get("/v1/jobs", headers={**ANN, "host": host})
    assert (response.status_code, response.json()["error"]["reason"]) == (403, "access_denied")
    assert "ListJobs" not in world.behaviour.seen


async def test_no_other_origin_may_call_by_default(world: World) -> None:
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    response = await world.http.options("/v1/generate-content", headers=preflight)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers
    plain = await world.http.get("/v1/jobs", headers={**ANN, "origin": "https://shop.example"})
    assert "access-control-allow-origin" not in plain.headers


async def test_origins_that_are_set_may_call(make_world: MakeWorld) -> None:
    world = await make_world(gateway__cors_origins=("https://shop.example",))
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    response = await world.http.options("/v1/generate-content", headers=preflight)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "https://shop.example"
    assert "authorization" in response.headers["access-control-allow-headers"]
    # The session's cookie must not travel with calls of other sites.
    assert "access-control-allow-credentials" not in response.headers
    called = await world.http.get("/v1/jobs", headers={**ANN, "origin": "https://shop.example"})
    assert called.headers["access-control-allow-origin"] == "https://shop.example"
    assert called.headers["vary"] == "origin"
    refused = await world.http.get("/v1/jobs", headers={"origin": "https://shop.example"})
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"
    other = await world.http.options("/v1/jobs", headers={**preflight, "origin": "https://evil.example"})
    assert other.status_code == 403


async def test_a_preflight_allows_what_the_sdk_of_an_allowed_page_sends(make_world: MakeWorld) -> None:
    world = await make_world(gateway__cors_origins=("https://shop.example/", "http://localhost:3000"))
    preflight = {"origin": "http://localhost:3000", "access-control-request-method": "POST"}
    wanted = "authorization, x-stainless-retry-count,x-fal-queue-priority"
    response = await world.http.options("/v1/jobs", headers={**preflight, "access-control-request-headers": wanted})
    assert response.status_code == 204
    assert "x-fal-queue-priority" in response.headers["access-control-allow-headers"]
    for bad in ("x" * 65, "a b", ", ".join(["x"] * 65)):
        response = await world.http.options("/v1/jobs", headers={**preflight, "access-control-request-headers": bad})
        assert (response.status_code, response.json()["error"]["reason"]) == (400, "malformed_request")
    for near in ("http://localhost:30000", "https://localhost:3000", "http://localhost:3000.evil.example", "null"):
        assert (await world.http.options("/v1/jobs", headers={**preflight, "origin": near})).status_code == 403


async def test_any_origin_never_comes_with_credentials(make_world: MakeWorld) -> None:
    world = await make_world(gateway__cors_origins=("*",))
    sent = {"origin": "https://anybody.example", "access-control-request-method": "POST"}
    for response in (
        await world.http.options("/v1/jobs", headers=sent),
        await world.http.get("/v1/jobs", headers=sent),
    ):
        assert response.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in response.headers
    assert "access-control-allow-origin" not in (await world.http.get("/v1/jobs", headers=ANN)).headers


@pytest.mark.parametrize(
    "origin", ["shop.example", "https://shop.example/page", "https://*.example", "HTTPS://a.b", ""]
)
async def test_an_origin_that_no_browser_sends_is_refused_at_the_start(tmp_path: Path, origin: str) -> None:
    with pytest.raises(SettingsError, match="is no origin"):
        await start(for_tests(tmp_path, gateway__cors_origins=(origin,)))


async def test_health_needs_no_identity_and_tells_what_is_missing(world: World) -> None:
    for path in ("/v1/health", "/healthz"):
        response = await world.http.get(path)
        assert response.status_code == 200
    assert response.json() == {
        "status": "serving",
        "services": [
            {"name": "router", "status": "serving", "required": True, "depends_on": []},
            {"name": "asset", "status": "serving", "required": True, "depends_on": []},
            {"name": "library", "status": "serving", "required": False, "depends_on": []},
        ],
    }


async def test_without_the_library_health_is_degraded_without_the_router_it_fails(world: World) -> None:
    world.gateway.app.health.fresh_for = datetime.timedelta(0)
    world.services.healths["asset"].set("database", True)
    await world.services.servers["library"].stop()
    response = await world.http.get("/v1/health")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    found = {service["name"]: service for service in response.json()["services"]}
    assert found["library"]["status"] == "unreachable"
    assert found["asset"]["depends_on"] == [{"name": "database", "status": "serving"}]

    world.services.healths["asset"].set("database", False)
    response = await world.http.get("/v1/health")
    assert (response.status_code, response.json()["status"]) == (503, "not_serving")
    found = {service["name"]: service for service in response.json()["services"]}
    assert found["asset"]["status"] == "not_serving"
    assert found["asset"]["depends_on"] == [{"name": "database", "status": "not_serving"}]


async def test_health_is_asked_once_a_second_at_most(world: World) -> None:
    await world.http.get("/v1/health")
    await world.services.stop()
    answers = await asyncio.gather(*(world.http.get("/v1/health") for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
async def test_beyond_loopback_needs_tls_or_leave(tmp_path: Path, listen: str) -> None:
    with pytest.raises(SettingsError, match="without TLS"):
        await start(for_tests(tmp_path, gateway__listen=listen))


async def test_with_leave_any_name_is_taken(make_world: MakeWorld) -> None:
    world = await make_world(gateway__listen="0.0.0.0:0", gateway__insecure=True)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.port}", trust_env=False) as http:
        assert (await http.get("/v1/jobs", headers={**ANN, "host": "art.example"})).status_code == 200


async def test_an_address_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(FailedPrecondition, match=f"cannot listen at {listen}.*ATELIER_GATEWAY_LISTEN"):
            await start(for_tests(tmp_path, gateway__listen=listen))


async def test_half_a_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="belong together"):
        await start(for_tests(tmp_path, gateway__tls_cert="x.pem"))
    with pytest.raises(SettingsError, match="cannot be used"):
        await start(for_tests(tmp_path, gateway__tls_cert="x.pem", gateway__tls_key="y.pem"))


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


async def test_tls(make_world: MakeWorld, tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    world = await make_world(gateway__tls_cert=str(certificate), gateway__tls_key=str(key))
    trusted = ssl.create_default_context(cafile=str(certificate))
    async with httpx.AsyncClient(base_url=f"https://localhost:{world.port}", verify=trusted, trust_env=False) as http:
        response = await http.get("/v1/jobs", headers=ANN)
        assert response.status_code == 200
        assert "max-age" in response.headers["strict-transport-security"]
        session = await http.post("/v1/sessions", json={"code": "c"})
        assert "Secure" in session.headers["set-cookie"]
