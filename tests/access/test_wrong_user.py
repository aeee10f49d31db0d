"""Every RPC and route, taken from the descriptors, is tried as the wrong user, who learns nothing, not even existence.

What Bob is told of an id of Ann's is, to the letter, what he is told of an id that never existed.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
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
from atelier.asset.v1 import upload_service_pb2
from atelier.type.v1 import access_pb2
from gateway.dialects.registry import DIALECTS
from gateway.http_rules import routes
from gateway.openapi import document
from service_kit.access import access_of
from service_kit.capabilities import LeaseClaims
from service_kit.clock import SystemClock
from service_kit.identity import AUTHORIZATION, Owner
from service_kit.ids import new_id
from tests.access.asking import VARIES, ask, asked, filled, leaks, plain
from tests.access.cases import CASES, CURSORS, FIXED, NAMES_NOTHING, PAGES, ROLES, SAYS_NOTHING
from tests.access.house import COLLECTION, PROMPT, House, furnish, picture, save
from tests.asset_service.harness import Callers
from tests.support.system import System, running_system

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
FIXED_ROUTES = {path for path in document()["paths"] if not any(dialect.owns(path) for dialect in DIALECTS)} - {
    re.sub(r"=[^}]*", "", route.template) for route in ROUTES.values()
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    async with running_system(tmp_path_factory.mktemp("access")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def house(system: System) -> AsyncIterator[House]:
    async with httpx.AsyncClient(base_url=system.url, trust_env=False, timeout=20) as http:
        yield await furnish(system, http)


async def test_every_rpc_and_route_has_its_cases() -> None:
    assert set(CASES) | set(NAMES_NOTHING) == USERS, "add what is missing to tests/access/cases.py"
    assert set(FIXED) == FIXED_ROUTES, "add what is missing to tests/access/cases.py"
    named = {name for name in USERS if any(_is_id(each) for each in fields_of(RPCS[name].input_type))}
    assert named - set(CASES) == {"UploadService.CreateUpload"}, "what names a thing is tried with somebody else's"
    assert set(ROUTES) >= USERS
    roles = {name: access_pb2.Access.Name(access(RPCS[name])).removeprefix("ACCESS_").lower() for name in RPCS}  # type: ignore[arg-type]
    closed = {role: {name for name, its in roles.items() if its == role} for role in set(roles.values()) - {"use"}}
    assert closed == ROLES, "whoever opens an RPC to others says so in tests/access/cases.py"
    assert {name for name in USERS if "page_token" in RPCS[name].input_type.fields_by_name} == set(PAGES)
    assert {name for name in USERS if "after" in RPCS[name].input_type.fields_by_name} == set(CURSORS)


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
        return error.code(), error.details(), {name: VARIES.sub("", str(value)) for name, value in details.items()}
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


async def make_more(house: House) -> dict[str, str]:
    """Give Ann two of everything that is listed. Returns what Bob may not see of it."""
    shown: dict[str, str] = {}
    for number in range(2):
        spec = {"prompt": PROMPT, "model": "sdxl", "format": "image", "quality": "draft", "steps": 2}
        hook = {"webhook": {"url": "https://hooks.invalid/"}}
        job = await house.done(house.ann, "POST", "/v1/generate-content", json=spec | hook)
        await house.ended(job["job_id"])
        color = ("olive", "navy")[number]
        brought = await house.done(house.ann, "POST", "/v1/uploads", content=picture(color))
        asset_id = brought["asset"]["asset_id"]
        shelf = await house.done(house.ann, "POST", "/v1/collections", json={"name": f"{COLLECTION}-{number}"})
        shown |= {
            # The one that she had is gone by now.
            f"job {number}": job["job_id"],
            "job": job["job_id"],
            f"asset {number}": asset_id,
            f"item {number}": await save(house, house.ann, asset_id),
            f"collection {number}": shelf["collection"]["collection_id"],
        }
    return shown


async def test_nobody_goes_on_where_somebody_else_was(house: House) -> None:
    """Page tokens and cursors of Ann's are harmless in Bob's hands: he sees his own, or is refused."""
    house.things |= await make_more(house)
    for name, fields in PAGES.items():
        first = json.loads((await asked(house, house.ann, ROUTES[name], {**fields, "page_size": 1}))[1])
        sent = {**fields, "page_size": 1, "page_token": first["next_page_token"]}
        assert sent["page_token"], name
        status, hers = await asked(house, house.ann, ROUTES[name], sent)
        assert status == 200, (name, hers)
        assert leaks(house, hers, sent), f"{name}: the second page shows something of hers"
        status, text = await asked(house, house.bob, ROUTES[name], sent)
        assert status in (200, 400), (name, text)
        assert leaks(house, text, sent) == set(), name
    for name, fields in CURSORS.items():
        sent = filled(fields, house.things, house)
        _, told = await asked(house, house.ann, ROUTES[name], sent)
        cursors = re.findall(r'"cursor": ?"([^"]+)"', told)
        assert cursors, (name, told)
        for cursor in {cursors[0], cursors[-1]}:
            status, text = await asked(house, house.bob, ROUTES[name], {**sent, "after": cursor})
            assert status in (200, 404), (name, text)
            assert leaks(house, text, {**sent, "after": cursor}) == set(), name
    _, told = await ask(house, house.ann, "GET", "/v1/events", "", {})
    for cursor in re.findall(r"^id: ?(.+)$", told, re.MULTILINE)[-1:]:
        _, text = await ask(house, house.bob, "GET", "/v1/events", "", {"after": cursor})
        assert leaks(house, text, cursor) == set()


async def test_a_lease_reaches_only_its_own_job(house: House, system: System) -> None:
    """What a worker that has a lease for a job of Bob's names of Ann's is as if it had never been."""
    data = picture("lime")
    async with grpc.aio.insecure_channel(system.host.targets["asset"]) as channel:
        callers = Callers(system.settings.core.data_dir, SystemClock(), channel)
        anns, bobs = (
            callers.lease(new_id(), owner=Owner("default", "ann")),
            callers.lease(new_id(), owner=Owner("default", "bob")),
        )
        upload_id = (await callers.start(anns, data)).upload_id
        other = replace(bobs, owner=anns.owner)
        later = replace(anns, fence=anns.fence + 1)
        for lease in (bobs, other, later):
            for there in (upload_id, house.things["upload"]):
                for never in (new_id(),):
                    assert await refused(callers, lease, there, data) == await refused(callers, lease, never, data)
            for asset in ("asset", "output"):
                theirs, never = house.things[asset], house.never[asset]
                assert await unread(callers, lease, theirs) == await unread(callers, lease, never)
        assert await callers.write(anns, upload_id, data) == len(data), "hers goes on"
        finished = await callers.uploads.FinishUpload(
            upload_service_pb2.FinishUploadRequest(upload_id=upload_id), metadata=callers.as_worker(anns)
        )
        assert finished.receipt


async def refused(callers: Callers, lease: LeaseClaims, upload_id: str, data: bytes) -> list[tuple[Any, str]]:
    """Return how the RPCs refuse that name an upload; all must."""
    answers = []
    message = upload_service_pb2.FinishUploadRequest(upload_id=upload_id)
    for call in (
        callers.write(lease, upload_id, data),
        callers.uploads.FinishUpload(message, metadata=callers.as_worker(lease)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        answers.append((caught.value.code(), str(caught.value.details()).replace(upload_id, "<upload>")))
    assert {code for code, _ in answers} == {grpc.StatusCode.NOT_FOUND}
    return answers


async def unread(callers: Callers, lease: LeaseClaims, asset_id: str) -> str:
    """Return how a reference is refused that the lease does not name."""
    message = upload_service_pb2.ReadReferenceRequest(asset_id=asset_id)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in callers.uploads.ReadReference(message, metadata=callers.as_worker(lease)):
            raise AssertionError("bytes came")
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    return str(caught.value.details()).replace(asset_id, "<asset>")
