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


@lru_cache(maxsize=1024)
def access_of(method: str) -> access_pb2.Access.ValueType:
    """Return who may call `/package.Service/Method`; unspecified, so nobody, when that is not said or not known."""
    service_name, _, method_name = method.removeprefix("/").partition("/")
    if service_name in _OPEN_SERVICES:
        return access_pb2.ACCESS_OPEN
    try:
        service = descriptor_pool.Default().FindServiceByName(service_name)
    except KeyError:
        return access_pb2.ACCESS_UNSPECIFIED
    found = service.methods_by_name.get(method_name)
    if found is None:
        return access_pb2.ACCESS_UNSPECIFIED
    access: access_pb2.Access.ValueType = found.GetOptions().Extensions[access_pb2.access]
    return access
