"""How much an owner, or a key, may have at once: what the operator set for it, or what the settings say for all."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import timedelta

from router_service.storage import Transaction
from router_service.storage.limits import Allowance, Party
from service_kit.clock import Clock
from service_kit.errors import ErrorReason, FieldProblem, ResourceExhausted
from service_kit.identity import Owner

# Another replica's change is seen after this many seconds.
_FRESH_FOR_S = 2.0
_MOST_REMEMBERED = 10_000
_RETRY_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class JobLimits:
    """How many jobs of an owner or a key may wait, and how many may run, in all pools together; 0 is any number."""

    queued: int = 0
    running: int = 0


_UNKNOWN = (float("-inf"), JobLimits())


class Limits:
    """The limits of all owners and keys. One without any costs nothing: no count, no lock."""

    def __init__(self, clock: Clock, usual: JobLimits, usual_of_keys: JobLimits) -> None:
        self._clock = clock
        self._usual = usual
        self._usual_of_keys = usual_of_keys
        self._known: dict[Party, tuple[float, JobLimits]] = {}

    async def of(self, tx: Transaction, parties: Collection[Party]) -> dict[Party, JobLimits]:
        """Return the limits of owners and keys, at most two seconds old."""
        now = self._clock.monotonic()
        found: dict[Party, JobLimits] = {}
        for party in parties:
            read_at, limits = self._known.get(party, _UNKNOWN)
            if now - read_at <= _FRESH_FOR_S:
                found[party] = limits
        missing = [party for party in parties if party not in found]
        if missing:
            set_for = await tx.limits.find(missing)
            read = {party: self._in_force(party, set_for.get(party, Allowance())) for party in missing}
            if len(self._known) > _MOST_REMEMBERED:
                self._known.clear()
            self._known |= {party: (now, limits) for party, limits in read.items()}
            found |= read
        return found

    def forget(self, party: Party) -> None:
        """Look again: the limits of an owner or a key were set by this replica."""
        self._known.pop(party, None)

    def _in_force(self, party: Party, allowance: Allowance) -> JobLimits:
        usual = self._usual if isinstance(party, Owner) else self._usual_of_keys
        queued, running = allowance.queued_jobs, allowance.running_jobs
        return JobLimits(
            queued=usual.queued if queued is None else queued,
            running=usual.running if running is None else running,
        )


def parties_of(owner: Owner, key_id: str) -> tuple[Party, ...]:
    """Return for whom a job counts: its owner, and the key that it was submitted with, if that is known."""
    return (owner, key_id) if key_id else (owner,)


def lock_names(parties: Iterable[Party]) -> list[str]:
    """Return the names of the locks under which jobs of owners and keys are counted."""
    return [
        f"owner/{party.tenant_id}/{party.owner_id}" if isinstance(party, Owner) else f"key/{party}" for party in parties
    ]


def too_many_queued(party: Party, limit: int) -> ResourceExhausted:
    """Return the refusal of a job that would be one too many to wait."""
    whose = "this owner" if isinstance(party, Owner) else f"the key {party}"
    problem = FieldProblem("queued_jobs", f"is limited to {limit}, and {limit} jobs of {whose} wait already")
    return ResourceExhausted(
        f"The limit queued_jobs of {whose} is {limit}, and as many jobs wait: repeat when some have started, cancel "
        "some, or ask the operator for more.",
        ErrorReason.TOO_MANY_QUEUED_JOBS,
        fields=[problem],
        retry_after=_RETRY_AFTER,
    )
