"""Reading jobs: one, and pages of them."""

from __future__ import annotations

from dataclasses import dataclass

from router_service.domain import Job, JobState
from router_service.storage import Storage
from service_kit.identity import Owner
from service_kit.paging import decode_place, encode_place

_PAGES = "router.jobs"


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs, newest first; the token is empty on the last page."""

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

    async def list(self, owner: Owner, *, state: JobState | None, page_size: int, page_token: str) -> JobPage:
        """Return a page of an owner's jobs. Raises InvalidArgument for a token that is not one of ours."""
        before = decode_place(_PAGES, page_token) if page_token else None
        async with self._storage.read() as tx:
            jobs = await tx.jobs.find_page(owner, state=state, before=before, limit=page_size + 1)
        if len(jobs) <= page_size:
            return JobPage(tuple(jobs), "")
        last = jobs[page_size - 1]
        return JobPage(tuple(jobs[:page_size]), encode_place(_PAGES, last.created_at, last.job_id))
