"""Who is next: an order among the waiting stages of all owners. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router_service.storage.queue import Candidate
from service_kit.identity import Owner


def rank(
    candidates: Sequence[Candidate], running: Mapping[Owner, int], *, last_served: Mapping[Owner, int], limit: int
) -> list[Candidate]:
    """Return the candidates in the order in which they are to be leased, at most `limit`.

    Higher tiers first; then an owner's i-th candidate stands behind whoever has fewer stages running and chosen before
    it; then the owner that was served longest ago, then the oldest.

    Args:
        candidates: each owner's first waiting stages, with `place` counted from 0.
        running: how many stages of each owner run.
        last_served: a number that grows with every lease, per owner; owners that were never served are absent.
        limit: how many to return.
    """
    ordered = sorted(
        candidates,
        key=lambda candidate: (
            -candidate.tier,
            running.get(candidate.owner, 0) + candidate.place,
            last_served.get(candidate.owner, -1),
            candidate.order_key,
            candidate.job_id,
        ),
    )
    return ordered[:limit]
