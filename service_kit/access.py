"""Who may call an RPC: the option `atelier.type.v1.access` of its method, read from the descriptors."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf import descriptor_pool

from atelier.type.v1 import access_pb2

_OPEN_SERVICES = frozenset(
    {
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
)


def access_of(method: str) -> access_pb2.Access.ValueType:
    """Return who may call `/package.Service/Method`; unspecified, so nobody, when that is not said or not known."""
    try:
        return _said_of(method)
    except KeyError:
        # Not kept: its contract may be loaded later.
        return access_pb2.ACCESS_UNSPECIFIED


@lru_cache(maxsize=1024)
def _said_of(method: str) -> access_pb2.Access.ValueType:
    service_name, _, method_name = method.removeprefix("/").partition("/")
    if service_name in _OPEN_SERVICES:
        return access_pb2.ACCESS_OPEN
    found = descriptor_pool.Default().FindServiceByName(service_name).methods_by_name[method_name]
    access: access_pb2.Access.ValueType = found.GetOptions().Extensions[access_pb2.access]
    return access
