"""Every RPC says who may call it, and one that does not say is closed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, empty_pb2  # noqa: F401 - a message for the method

import atelier
from atelier.type.v1 import access_pb2
from service_kit.access import access_of


def methods() -> Iterator[str]:
    root = Path(next(iter(atelier.__path__)))
    for path in sorted(root.rglob("*_pb2.py")):
        name = ".".join(("atelier", *path.relative_to(root).with_suffix("").parts))
        for service in import_module(name).DESCRIPTOR.services_by_name.values():
            yield from (f"/{service.full_name}/{method.name}" for method in service.methods)


def test_every_rpc_says_who_may_call_it() -> None:
    found = list(methods())
    assert "/atelier.router.v1.RouterService/GenerateContent" in found
    assert [method for method in found if access_of(method) == access_pb2.ACCESS_UNSPECIFIED] == []


def test_only_the_exchange_of_keys_and_codes_is_open() -> None:
    assert {method for method in methods() if access_of(method) == access_pb2.ACCESS_OPEN} == {
        "/atelier.identity.v1.IdentityService/ExchangeKey",
        "/atelier.identity.v1.IdentityService/ExchangeSignInCode",
    }


@pytest.mark.parametrize("method", ["/a.B/C", "/atelier.router.v1.RouterService/Nothing", "", "/", "x"])
def test_what_is_not_known_is_closed(method: str) -> None:
    assert access_of(method) == access_pb2.ACCESS_UNSPECIFIED


def test_what_is_asked_for_before_its_contract_is_loaded_is_known_afterwards() -> None:
    method = "/loaded.later.Service/Do"
    assert access_of(method) == access_pb2.ACCESS_UNSPECIFIED
    file = descriptor_pb2.FileDescriptorProto(name="loaded_later.proto", package="loaded.later", syntax="proto3")
    file.dependency.extend(["atelier/type/v1/access.proto", "google/protobuf/empty.proto"])
    does = file.service.add(name="Service").method.add(name="Do")
    does.input_type = does.output_type = ".google.protobuf.Empty"
    does.options.Extensions[access_pb2.access] = access_pb2.ACCESS_USE
    descriptor_pool.Default().Add(file)
    assert access_of(method) == access_pb2.ACCESS_USE


def test_health_and_reflection_are_open() -> None:
    assert access_of("/grpc.health.v1.Health/Check") == access_pb2.ACCESS_OPEN
    assert access_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") == access_pb2.ACCESS_OPEN
