"""Every RPC and route, taken from the descriptors, is tried as the wrong user, who learns nothing, not even existence.

What Bob is told of an id of Ann's is, to the letter, what he is told of an id that never existed.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

import atelier
from atelier.type.v1 import access_pb2
from gateway.http_rules import RpcRoute, routes
from gateway.openapi import document
from service_kit.access import access_of
from service_kit.identity import AUTHORIZATION
from tests.access.cases import CASES, FIXED, NAMES_NOTHING, SAYS_NOTHING, Bobs, Fields, Of
from tests.access.house import House, furnish
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")

# How long a stream is listened to: what it says first comes at once.
LISTENS_S = 0.3
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
# Times, and ids that a reply makes up; that none of Ann's is among them is looked at by itself.
_VARIES = re.compile(rf"{_UUID}|\d{{4}}-\d\d-\d\dT[0-9:.]+Z")


def rpcs() -> Iterator[tuple[str, MethodDescriptor]]:
    """Give every RPC of every contract, by `Service.Rpc`."""
    root = Path(next(iter(atelier.__path__)))
    for path in sorted(root.rglob("*_service_pb2.py")):
        name = ".".join(("atelier", *path.relative_to(root).with_suffix("").parts))
        for service in import_module(name).DESCRIPTOR.services_by_name.values():
            yield from ((f"{service.name}.{method.name}", method) for method in service.methods)


def access(method: MethodDescriptor) -> int:
    return access_of(f"/{method.containing_service.full_name}/{method.name}")


RPCS = dict(rpcs())
USERS = {name for name, method in RPCS.items() if access(method) == access_pb2.ACCESS_USE}
OPEN = {name for name, method in RPCS.items() if access(method) == access_pb2.ACCESS_OPEN}
CLOSED = sorted(set(RPCS) - USERS - OPEN)
ROUTES = {f"{route.method.containing_service.name}.{route.method.name}": route for route in routes()}
FIXED_ROUTES = set(document()["paths"]) - {re.sub(r"=[^}]*", "", route.template) for route in ROUTES.values()}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("access")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(system: System) -> AsyncIterator[House]:
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20) as http:
        yield await furnish(system, http)


def filled(value: Any, things: Mapping[str, str], house: House) -> Any:
    """Return a request of the table with ids in it."""
    match value:
        case Of():
            return things[value.thing]
        case Bobs():
            return house.bobs_item
        case dict():
            return {name: filled(each, things, house) for name, each in value.items()}
        case list():
            return [filled(each, things, house) for each in value]
        case _:
            return value


async def ask(house: House, key: str, method: str, path: str, body: str, fields: Fields) -> tuple[int, str]:
    """Send fields as a route takes them: in the path, the query or the body. Returns status and text."""
    left = dict(fields)
    for name in re.findall(r"{([^}=]*)[^}]*}", path):
        path = re.sub(r"{" + name + r"[^}]*}", left.pop(name), path)
    options: dict[str, Any] = {"json": left} if body == "*" else {"params": left}
    if body == "data":
        options["content"] = b"bytes"
    request = house.http.build_request(method, path, headers={"x-api-key": key}, **options)
    response = await house.http.send(request, stream=True)
    is_stream = "event-stream" in response.headers.get("content-type", "")
    text = ""
    try:
        async with asyncio.timeout(LISTENS_S if is_stream else 20):
            async for piece in response.aiter_text():
                text += piece
    except TimeoutError:
        # A stream of events does not end by itself; anything else has to.
        if not is_stream:
            raise
    finally:
        await response.aclose()
    return response.status_code, text


async def asked(house: House, key: str, route: RpcRoute, fields: Fields) -> tuple[int, str]:
    return await ask(house, key, route.http_method, route.template, route.body, fields)


def plain(answer: tuple[int, str], fields: Fields, filled_fields: Fields) -> tuple[int, str]:
    """Return an answer without what differs from call to call, and with the ids that were sent under one name."""
    status, text = answer
    for of, sent in pairs(fields, filled_fields):
        text = text.replace(sent, f"<{of.thing}>")
    return status, _VARIES.sub("", text)


def pairs(fields: Any, sent: Any) -> Iterator[tuple[Of, str]]:
    if isinstance(fields, Of):
        yield fields, sent
    elif isinstance(fields, dict):
        for name, value in fields.items():
            yield from pairs(value, sent[name])
    elif isinstance(fields, list):
        for value, each in zip(fields, sent, strict=True):
            yield from pairs(value, each)


def leaks(house: House, text: str, sent: Any) -> set[str]:
    said = json.dumps(sent)
    return {secret for secret in house.secrets() if secret in text and secret not in said}


async def test_every_rpc_and_route_has_its_cases() -> None:
    assert set(CASES) | set(NAMES_NOTHING) == USERS, "add what is missing to tests/access/cases.py"
    assert set(FIXED) == FIXED_ROUTES, "add what is missing to tests/access/cases.py"
    named = {name for name in USERS if any(_is_id(each) for each in fields_of(RPCS[name].input_type))}
    assert named - set(CASES) == {"UploadService.CreateUpload"}, "what names a thing is tried with somebody else's"
    assert set(ROUTES) >= USERS


def fields_of(message: Descriptor) -> list[FieldDescriptor]:
    return list(message.fields)


def _is_id(field: FieldDescriptor) -> bool:
    return field.name.endswith(("_id", "_ids", "import_key"))


@pytest.mark.parametrize("name", CASES)
async def test_what_is_somebody_elses_is_as_if_it_had_never_been(house: House, name: str) -> None:
    for fields in CASES[name]:
        theirs, never = filled(fields, house.things, house), filled(fields, house.never, house)
        answer = await asked(house, house.bob, ROUTES[name], theirs)
        unknown = await asked(house, house.bob, ROUTES[name], never)
        assert plain(answer, fields, theirs) == plain(unknown, fields, never), fields
        assert leaks(house, answer[1], theirs) == set(), fields


@pytest.mark.parametrize("name", NAMES_NOTHING)
async def test_what_names_nothing_tells_nothing(house: House, name: str) -> None:
    for fields in NAMES_NOTHING[name]:
        sent = filled(fields, house.things, house)
        status, text = await asked(house, house.bob, ROUTES[name], sent)
        assert status in (200, 400), text
        assert leaks(house, text, sent) == set(), fields


@pytest.mark.parametrize("path", FIXED)
async def test_a_route_that_is_no_rpcs_tells_nothing(house: House, path: str) -> None:
    for fields in FIXED[path]:
        theirs, never = filled(fields, house.things, house), filled(fields, house.never, house)
        answer = await ask(house, house.bob, "GET", path, "", theirs)
        assert leaks(house, answer[1], theirs) == set()
        if theirs != never:
            unknown = await ask(house, house.bob, "GET", path, "", never)
            assert plain(answer, fields, theirs) == plain(unknown, fields, never)


def request_about(message: Descriptor, things: Mapping[str, str], owner: str) -> Message:
    """Return a request that names somebody's things in every field that can."""
    request = message_factory.GetMessageClass(message)()
    values: dict[str, Callable[[], str]] = {
        "job_id": lambda: things["job"],
        "asset_id": lambda: things["asset"],
        "item_id": lambda: things["item"],
        "upload_id": lambda: things["upload"],
        "holder": lambda: f"job:{things['job']}",
        "owner_id": lambda: owner,
        "key_id": lambda: things["job"],
        "tenant_id": lambda: "default",
    }
    for field in message.fields:
        make = values.get(field.name.removesuffix("s"))
        if make is not None and field.type == FieldDescriptor.TYPE_STRING:
            if field.is_repeated:
                getattr(request, field.name).append(make())
            else:
                setattr(request, field.name, make())
        elif field.name == "owner" and field.type == FieldDescriptor.TYPE_MESSAGE:
            request.owner.tenant_id, request.owner.owner_id = "default", owner  # type: ignore[attr-defined]
    return request


async def refusal(channel: grpc.aio.Channel, method: MethodDescriptor, request: Message, token: str) -> tuple[Any, ...]:
    """Call an RPC of any shape. Returns why it is refused."""
    shape = (
        ("stream" if method.client_streaming else "unary") + "_" + ("stream" if method.server_streaming else "unary")
    )
    make = getattr(channel, shape)
    reply = message_factory.GetMessageClass(method.output_type)
    call = make(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=reply.FromString,
    )
    sent: Any = iter([request]) if method.client_streaming else request
    begun = call(sent, metadata=((AUTHORIZATION, f"Bearer {token}"),), timeout=10)
    try:
        if method.server_streaming:
            async for message in begun:
                raise AssertionError(f"{method.name} answered {message}")
        else:
            raise AssertionError(f"{method.name} answered {await begun}")
    except grpc.aio.AioRpcError as error:
        details = {name: value for name, value in error.trailing_metadata() or () if name == "grpc-status-details-bin"}
        return error.code(), error.details(), {name: _VARIES.sub("", str(value)) for name, value in details.items()}
    raise AssertionError(f"{method.name} ended without an answer")


@pytest.mark.parametrize("name", CLOSED)
async def test_what_is_not_for_users_is_closed_whatever_it_names(house: House, system: System, name: str) -> None:
    method = RPCS[name]
    package = method.containing_service.file.package.split(".")[1]
    target = system.host.targets[package if package in ("asset", "library") else "router"]
    token = (await house.done(house.bob, "POST", "/v1/identity-tokens", json={"secret": house.bob}))["identity_token"]
    async with grpc.aio.insecure_channel(target) as channel:
        theirs = await refusal(channel, method, request_about(method.input_type, house.things, "ann"), token)
        never = await refusal(channel, method, request_about(method.input_type, house.never, "nobody"), token)
    assert theirs == never
    assert theirs[0] in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    if name in ROUTES:
        route = ROUTES[name]
        fields = dict.fromkeys(re.findall(r"{([^}=]*)[^}]*}", route.template), house.things["job"])
        status, text = await asked(house, house.bob, route, fields)
        assert (status, json.loads(text)["error"]["reason"]) == (403, "access_denied")


async def test_nothing_of_hers_has_changed_and_every_case_could_have_told(house: House) -> None:
    """Ann, who asks the same last, is told something else each time: so the cases try what is there."""
    item = (await house.done(house.ann, "GET", f"/v1/items/{house.things['item']}"))["item"]
    assert (item["title"], item["tags"]) == ("anns-title", ["anns-tag"])
    shelves = (await house.done(house.ann, "GET", "/v1/collections"))["collections"]
    assert [shelf["name"] for shelf in shelves] == ["anns-shelf"]
    upload = (await house.done(house.ann, "GET", f"/v1/uploads/{house.things['upload']}"))["upload"]
    assert int(upload.get("received_bytes", 0)) == 0
    for name, cases in CASES.items():
        for fields in cases:
            hers, never = filled(fields, house.things, house), filled(fields, house.never, house)
            if "Bobs" in str(fields):
                continue  # she may not touch his item either
            answer = plain(await asked(house, house.ann, ROUTES[name], hers), fields, hers)
            unknown = plain(await asked(house, house.bob, ROUTES[name], never), fields, never)
            assert (answer == unknown) == (name in SAYS_NOTHING), (name, fields)
