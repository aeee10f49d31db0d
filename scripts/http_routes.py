"""The HTTP routes that the contracts promise, as a stored snapshot that a test compares.

`make snapshot` runs it as `python scripts/http_routes.py protos/released/http_routes.json`.

buf's rules let a changed path and a deleted RPC with a rule pass; comparing this file does not.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2

Route = dict[str, str]
METHODS = ("get", "put", "post", "delete", "patch")


def installed_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors that the installed stubs were made from."""
    content = importlib.resources.files("atelier").joinpath("descriptors.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(content)


def _bindings(rule: http_pb2.HttpRule) -> Iterator[http_pb2.HttpRule]:
    yield rule
    for extra in rule.additional_bindings:
        yield from _bindings(extra)


def _route(rule: http_pb2.HttpRule, rpc: str) -> Route:
    kind = rule.WhichOneof("pattern")
    if kind == "custom":
        return {"route": f"{rule.custom.kind} {rule.custom.path}", "rpc": rpc, "body": rule.body}
    if kind not in METHODS:
        raise ValueError(f"the http rule of {rpc} has no method and path")
    return {"route": f"{kind.upper()} {getattr(rule, kind)}", "rpc": rpc, "body": rule.body}


def routes(descriptors: descriptor_pb2.FileDescriptorSet) -> list[Route]:
    """Return every route of every RPC, sorted by path and method.

    Each has `route` (method and path), `rpc` (its full name) and `body` (`*`, the name of a field, or empty).
    """
    found = [
        _route(binding, f"{file.package}.{service.name}.{method.name}")
        for file in descriptors.file
        for service in file.service
        for method in service.method
        if method.options.HasExtension(annotations_pb2.http)
        for binding in _bindings(method.options.Extensions[annotations_pb2.http])
    ]
    return sorted(found, key=lambda route: (route["route"].split(" ", 1)[1], route["route"]))


def differences(stored: list[Route], current: list[Route]) -> list[str]:
    """Return one sentence for each route that was removed, changed or added; empty when nothing differs."""
    before = {route["route"]: route for route in stored}
    now = {route["route"]: route for route in current}
    told = [f"{name} is gone: clients of the last release call it" for name in before.keys() - now.keys()]
    told += [
        f"{name} was {before[name]} and is {now[name]}: clients of the last release would break"
        for name in before.keys() & now.keys()
        if before[name] != now[name]
    ]
    told += [f"{name} is new and not in the snapshot: run make snapshot" for name in now.keys() - before.keys()]
    return sorted(told)


def main() -> None:
    """Write the snapshot to the file named on the command line."""
    Path(sys.argv[1]).write_text(json.dumps(routes(installed_descriptors()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
