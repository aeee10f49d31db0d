"""The shape of a service as an import-linter contract: which part may import which, and what from outside.

Inside a service imports go down only: `__main__`, the servicers, `wire` and the logic modules, `storage`, `domain`.
protobuf and grpc are for servicers, `wire` and `clients`, and for `__main__`, which registers and connects those;
SQLAlchemy is for `storage`. A module is known by its first name below the service, so a part may be one file, several
(`worker_servicer`), or a package.
"""

from __future__ import annotations

from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

# The import graph knows packages from outside by their first name only.
TRANSPORT = {"atelier", "google", "grpc", "grpc_health", "grpc_reflection", "grpc_status"}
DATABASE = {"sqlalchemy", "alembic", "aiosqlite", "psycopg"}
RANKS = {"__main__": 4, "servicer": 3, "logic": 2, "wire": 2, "clients": 2, "storage": 1, "domain": 0}


def part_of(module: str) -> str:
    """Return which part of a service a module is; the package itself counts as `domain`, for anyone may import it."""
    _, _, below = module.partition(".")
    first = below.split(".")[0]
    for part in ("servicer", "wire", "clients", "domain"):
        if first.endswith(part):
            return part
    if not first:
        return "domain"
    return first if first in RANKS else "logic"


def fault(importer: str, imported: str) -> str | None:
    """Return why this import of a service's module is refused, or None when it is fine."""
    service, package = (name.partition(".")[0] for name in (importer, imported))
    part = part_of(importer)
    if package == service:
        other = part_of(imported)
        return f"{part} must not import {other}" if RANKS[other] > RANKS[part] else None
    if package in TRANSPORT and part not in ("__main__", "servicer", "wire", "clients"):
        return "only __main__, servicers, wire and clients import protobuf and grpc"
    if package in DATABASE and part != "storage":
        return "only storage imports SQLAlchemy"
    return None


class ServiceShape(Contract):
    """Every module of `services` keeps to its part."""

    type_name = "service_shape"
    services: Any = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Look at every direct import of every module of the services."""
        faults = [
            (importer, imported, reason)
            for importer in sorted(graph.modules)
            if importer.split(".")[0] in self.services
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if (reason := fault(importer, imported)) is not None
        ]
        lines = [f"{self._where(graph, importer, imported)}: {reason}" for importer, imported, reason in faults]
        return ContractCheck(kept=not lines, metadata={"lines": lines})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print one line for each refused import."""
        for line in check.metadata["lines"]:
            output.print_error(line, bold=False)

    def _where(self, graph: ImportGraph, importer: str, imported: str) -> str:
        details: list[Any] = list(graph.get_import_details(importer=importer, imported=imported))
        return f"{importer} -> {imported} (line {details[0]['line_number'] if details else '?'})"
