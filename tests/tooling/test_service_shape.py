"""The import rules inside a service refuse what they should."""

from __future__ import annotations

import grimp
import pytest

from scripts.service_shape import ServiceShape, fault

DOWNWARDS = [
    ("router_service.__main__", "router_service.servicer"),
    ("router_service.worker_servicer", "router_service.dispatch"),
    ("router_service.dispatch", "router_service.storage.jobs"),
    ("router_service.storage.jobs", "router_service.domain"),
    ("router_service.wire", "grpc"),
    ("router_service.__main__", "grpc"),
    ("router_service.worker_wire", "atelier"),
    ("router_service.clients", "atelier"),
    ("router_service.storage.tables", "sqlalchemy"),
    ("router_service.dispatch", "router_service.clients"),
    ("router_service.dispatch", "service_kit.database"),
]
REFUSED = [
    ("router_service.domain", "router_service.wire"),
    ("router_service.domain", "router_service.storage"),
    ("router_service.storage.jobs", "router_service.dispatch"),
    ("router_service.dispatch", "router_service.worker_servicer"),
    ("router_service.servicer", "router_service.__main__"),
    ("router_service.dispatch", "grpc"),
    ("router_service.storage.events", "atelier"),
    ("router_service.dispatch", "sqlalchemy"),
    ("router_service.__main__", "sqlalchemy"),
    ("router_service.dispatch", "google"),
]


@pytest.mark.parametrize(("importer", "imported"), DOWNWARDS)
def test_imports_that_go_down_are_fine(importer: str, imported: str) -> None:
    assert fault(importer, imported) is None


@pytest.mark.parametrize(("importer", "imported"), REFUSED)
def test_imports_that_go_up_or_out_of_their_part_are_refused(importer: str, imported: str) -> None:
    assert fault(importer, imported) is not None


def test_the_contract_names_importer_imported_and_line() -> None:
    graph = grimp.ImportGraph()
    for module in ("router_service", "router_service.dispatch", "gateway", "gateway.app"):
        graph.add_module(module)
    graph.add_module("grpc", is_squashed=True)
    for importer in ("router_service.dispatch", "gateway.app"):
        graph.add_import(importer=importer, imported="grpc", line_number=7, line_contents="import grpc")
    contract = ServiceShape("shape", session_options={}, contract_options={"services": ["router_service"]})
    check = contract.check(graph, verbose=False)
    assert not check.kept
    assert check.metadata["lines"] == [
        "router_service.dispatch -> grpc (line 7): only __main__, servicers, wire and clients import protobuf and grpc"
    ]
