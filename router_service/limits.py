"""How much an owner may have at once: what the operator set for it, or what the settings say for everybody."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from router_service.storage import Transaction
from router_service.storage.limits import Allowance
from service_kit.clock import Clock
from service_kit.errors import ErrorReason, FieldProblem, ResourceExhausted
from service_kit.identity import Owner

# Another replica's change is seen after this many seconds.
_FRESH_FOR_S = 2.0
_MOST_REMEMBERED = 10_000
_RETRY_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many jobs of an owner may wait, and how many may run, in all pools together; 0 is any number."""

    queued: int = 0
    running: int = 0


_UNKNOWN = (float("-inf"), JobLimits())


class Limits:
    """The limits of all owners. An owner without any costs nothing: no query, no lock."""

    def __init__(self, clock: Clock, usual: JobLimits) -> None:
        self._clock = clock
        self._usual = usual
        self._known: dict[Owner, tuple[float, JobLimits]] = {}

    async def of(self, tx: Transaction, owners: Collection[Owner]) -> dict[Owner, JobLimits]:
        """Return the limits of owners, at most two seconds old."""
        now = self._clock.monotonic()
        found: dict[Owner, JobLimits] = {}
        for owner in owners:
            read_at, limits = self._known.get(owner, _UNKNOWN)
            if now - read_at <= _FRESH_FOR_S:
                found[owner] = limits
        missing = [owner for owner in owners if owner not in found]
        if missing:
            set_for = await tx.limits.find(missing)
            read = {owner: self._in_force(set_for.get(owner, Allowance())) for owner in missing}
            if len(self._known) > _MOST_REMEMBERED:
                self._known.clear()
            self._known |= {owner: (now, limits) for owner, limits in read.items()}
            found |= read
        return found

    def forget(self, owner: Owner) -> None:
        """Look again: the limits of an owner were set by this replica."""
        self._known.pop(owner, None)

    def _in_force(self, allowance: Allowance) -> JobLimits:
        queued, running = allowance.queued_jobs, allowance.running_jobs
        return JobLimits(
            queued=self._usual.queued if queued is None else queued,
            running=self._usual.running if running is None else running,
        )


def lock_names(owners: Iterable[Owner]) -> list[str]:
    """Return the names of the locks under which jobs of owners are counted."""
    return [f"owner/{owner.tenant_id}/{owner.owner_id}" for owner in owners]


def too_many_queued(limit: int) -> ResourceExhausted:
    """Return the refusal of a job that would be one too many to wait."""
    problem = FieldProblem("queued_jobs", f"is limited to {limit}, and {limit} jobs of this owner wait already")
    return ResourceExhausted(
        f"The limit queued_jobs of this owner is {limit}, and as many jobs wait: repeat when some have started, cancel "
        "some, or ask the operator for more.",
        ErrorReason.TOO_MANY_QUEUED_JOBS,
        fields=[problem],
        retry_after=_RETRY_AFTER,
    )
