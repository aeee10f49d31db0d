"""Which HTTP route calls which RPC: read from the contracts' descriptors, so that a new RPC needs no code here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

from atelier.asset.v1 import asset_service_pb2, upload_service_pb2
from atelier.identity.v1 import identity_service_pb2
from atelier.library.v1 import library_service_pb2
from atelier.router.v1 import router_service_pb2, webhook_service_pb2
from atelier.type.v1 import access_pb2

FILES: tuple[FileDescriptor, ...] = (
    router_service_pb2.DESCRIPTOR,
    identity_service_pb2.DESCRIPTOR,
    asset_service_pb2.DESCRIPTOR,
    upload_service_pb2.DESCRIPTOR,
    library_service_pb2.DESCRIPTOR,
    webhook_service_pb2.DESCRIPTOR,
)
"""The contracts that the gateway serves."""

_VARIABLE = re.compile(r"\{([a-z][a-z0-9_.]*)\}")
_IN_EVERY_SERVICE = ("EraseOwner", "SweepBlobs")
_METHODS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece of a path template: a text, or the (dotted) path of the field that it fills."""

    text: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class RpcRoute:
    """One http rule of one RPC."""

    http_method: str
    template: str
    segments: tuple[Segment, ...]
    body: str
    """What the body fills: `*` the whole request, the name of a field, or nothing when empty."""
    method: MethodDescriptor
    access: int

    @property
    def service(self) -> str:
        """The full name of the service, such as `atelier.router.v1.RouterService`."""
        name: str = self.method.containing_service.full_name
        return name

    @property
    def grpc_path(self) -> str:
        """The path of the RPC, such as `/atelier.router.v1.RouterService/GetJob`."""
        return f"/{self.service}/{self.method.name}"

    @property
    def operation(self) -> str:
        """A name that no other RPC has: the method's, told apart where several services have it."""
        return told_apart(self.method.name, self.method.containing_service.file.package)

    @property
    def path_fields(self) -> tuple[str, ...]:
        """The fields that the path fills."""
        return tuple(segment.field for segment in self.segments if segment.field)

    @property
    def open(self) -> bool:
        """Whether it may be called without an identity."""
        return self.access == access_pb2.ACCESS_OPEN

    def match(self, segments: Sequence[str]) -> dict[str, str] | None:
        """Return the values of the path's fields, or None when the path is another one."""
        values: dict[str, str] = {}
        for mine, given in zip(self.segments, segments, strict=True):
            if mine.field:
                if not given:
                    return None
                values[mine.field] = given
            elif mine.text != given:
                return None
        return values


def told_apart(name: str, package: str) -> str:
    """Return a name of a contract that no other contract has: `EraseOwnerRequest` is `EraseOwnerInAssetRequest`."""
    for shared in _IN_EVERY_SERVICE:
        if name.startswith(shared):
            return f"{shared}In{package.split('.')[1].capitalize()}{name.removeprefix(shared)}"
    return name


def routes(files: Iterable[FileDescriptor] = FILES) -> list[RpcRoute]:
    """Return every route, those with more literal text first.

    Raises:
        ValueError: a rule that the gateway cannot serve, or two RPCs on one route.
    """
    found = [
        _route(method, binding)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if method.GetOptions().HasExtension(annotations_pb2.http)
        for binding in _bindings(method.GetOptions().Extensions[annotations_pb2.http])
    ]
    seen: dict[tuple[str, str], RpcRoute] = {}
    for route in found:
        shape = (route.http_method, _VARIABLE.sub("{}", route.template))
        if shape in seen:
            raise ValueError(f"{route.grpc_path} and {seen[shape].grpc_path} have the same route {route.template}")
        seen[shape] = route
    return sorted(found, key=lambda route: tuple(bool(segment.field) for segment in route.segments))


class RouteTable:
    """Finds the route of a request."""

    def __init__(self, found: Sequence[RpcRoute]) -> None:
        """Serve these routes; earlier ones win."""
        self.routes = tuple(found)
        self._by_length: dict[int, list[RpcRoute]] = {}
        for route in found:
            self._by_length.setdefault(len(route.segments), []).append(route)

    def find(self, method: str, segments: Sequence[str]) -> tuple[RpcRoute, dict[str, str]] | None:
        """Return the route and the values of its path's fields; None when there is none for this method."""
        for route, values in self._matching(segments):
            if route.http_method == method:
                return route, values
        return None

    def methods(self, segments: Sequence[str]) -> list[str]:
        """Return the methods that the path takes, sorted; empty for an unknown path."""
        return sorted({route.http_method for route, _ in self._matching(segments)})

    def _matching(self, segments: Sequence[str]) -> Iterator[tuple[RpcRoute, dict[str, str]]]:
        for route in self._by_length.get(len(segments), ()):
            values = route.match(segments)
            if values is not None:
                yield route, values


def _bindings(rule: http_pb2.HttpRule) -> Iterator[http_pb2.HttpRule]:
    yield rule
    yield from rule.additional_bindings


def _route(method: MethodDescriptor, rule: http_pb2.HttpRule) -> RpcRoute:
    kind = rule.WhichOneof("pattern")
    if kind not in _METHODS:
        raise ValueError(f"the http rule of {method.full_name} has no method that the gateway serves")
    template: str = getattr(rule, kind)
    return RpcRoute(
        http_method=kind.upper(),
        template=template,
        segments=tuple(_segments(method, template)),
        body=rule.body,
        method=method,
        access=method.GetOptions().Extensions[access_pb2.access],
    )


def _segments(method: MethodDescriptor, template: str) -> Iterator[Segment]:
    if not template.startswith("/"):
        raise ValueError(f"the path {template} of {method.full_name} does not begin with /")
    for part in template[1:].split("/"):
        variable = _VARIABLE.fullmatch(part)
        if variable:
            yield Segment(field=variable[1])
        elif part and not set(part) & set("{}*"):
            yield Segment(text=part)
        else:
            raise ValueError(
                f"the path {template} of {method.full_name} has a part that the gateway cannot match: {part}"
            )
