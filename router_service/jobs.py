"""Reading jobs: one, and pages of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

from router_service.domain import Job
from router_service.storage import Storage, Transaction
from router_service.storage.jobs import Place, Wanted
from service_kit.errors import ErrorReason, InvalidArgument
from service_kit.identity import Owner
from service_kit.ids import made_at
from service_kit.paging import decode_place, encode_place

# A token belongs to the order in which it was given.
_PAGES = {False: "router.jobs", True: "router.jobs.oldest_first"}
# A job is accepted so long after its id was made at most, and by the database's clock: a hold takes some time.
_ACCEPTED_WITHIN = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, in the order asked for; the token is empty on the last page."""

    jobs: tuple[Job, ...]
    next_page_token: str


class JobViews:
    """What owners read of their jobs."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def get(self, job_id: str, owner: Owner) -> Job:
        """Return one job. Raises NotFound when there is none, or somebody else owns it."""
        async with self._storage.read() as tx:
            return await tx.jobs.get_owned(job_id, owner)

    async def list(
        self, owner: Owner, wanted: Wanted, *, page_size: int, page_token: str, after_job_id: str
    ) -> JobPage:
        """Return a page of an owner's jobs, beginning after a token or a job.

        Raises:
            InvalidArgument: a token that is not one of ours, or not of this order; an id that is none; both of them.
        """
        if page_token and after_job_id:
            message = "means nothing together with page_token: leave it out"
            raise InvalidArgument.field("after_job_id", message, ErrorReason.CONFLICTING_FIELDS)
        kind = _PAGES[wanted.oldest_first]
        after = Place(*decode_place(kind, page_token)) if page_token else None
        async with self._storage.read() as tx:
            if after_job_id:
                after = await _place_of(tx, after_job_id, owner)
            jobs = await tx.jobs.find_page(owner, replace(wanted, after=after), limit=page_size + 1)
        if len(jobs) <= page_size:
            return JobPage(tuple(jobs), "")
        last = jobs[page_size - 1]
        return JobPage(tuple(jobs[:page_size]), encode_place(kind, last.created_at, last.job_id))


async def _place_of(tx: Transaction, job_id: str, owner: Owner) -> Place:
    """Return where a job of an owner stands in lists; of one that is gone, or somebody else's, as its id says."""
    moment = made_at(job_id, "after_job_id")
    job = await tx.jobs.get(job_id)
    if job is not None and job.owner == owner:
        return Place(job.created_at, job_id)
    return Place(moment, job_id, _ACCEPTED_WITHIN)
