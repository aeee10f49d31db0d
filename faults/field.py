"""What a fault can reach: everything that a schedule has running."""

from __future__ import annotations

from dataclasses import dataclass

from faults.cluster import Cluster
from faults.evidence import Evidence
from faults.progress import Progress
from tests.support.postgres import PostgresServer


@dataclass(frozen=True, slots=True)
class Field:
    """The running system of one schedule."""

    cluster: Cluster
    postgres: PostgresServer
    database_url: str
    progress: Progress
    evidence: Evidence
