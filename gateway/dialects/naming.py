"""Which model a name of another catalogue means, such as `fal-ai/fast-sdxl` or `stability-ai/sdxl`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from atelier.router.v1 import job_pb2, model_pb2

CALLED = (job_pb2.STAGE_KIND_GENERATE, job_pb2.STAGE_KIND_CHAT)
"""The stages whose models a client calls by name."""


def find_model(rows: Iterable[model_pb2.Model], names: Sequence[str]) -> tuple[str, model_pb2.Model] | None:
    """Return the first of `names` that the routing table has, and its row; None when it has none of them.

    A row's name or alias is matched whole; after that a pattern such as `sdxl*`. The row `*` matches nothing here: it
    would make of any name of the other catalogue a job that nobody meant.
    """
    names = [name for name in names if not name.endswith("*")]
    called = sorted((row for row in rows if row.stage in CALLED), key=lambda row: row.position)
    for name in names:
        for row in called:
            if name == row.name or name in row.aliases:
                return name, row
    for name in names:
        for row in called:
            if row.name.endswith("*") and row.name != "*" and name.startswith(row.name[:-1]):
                return name, row
    return None


def own_names(rows: Iterable[model_pb2.Model]) -> list[tuple[str, model_pb2.Model]]:
    """Return the models that have a name of their own, in the order of the table; a pattern has none."""
    return [(row.name, row) for row in rows if row.stage in CALLED and not row.name.endswith("*")]
