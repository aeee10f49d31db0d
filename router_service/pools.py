"""The pools: which workers are connected, and why a waiting stage waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from router_service.domain import Job, JobState
from router_service.pool_domain import PoolKind, parse_pool
from router_service.registry_domain import ConnectedWorker
from service_kit.paging import decode_page_token, encode_page_token, not_of_this_list

_PAGES = "router.workers"


class Pools:
    """What this replica knows of connected workers and waiting stages; refreshed by whoever changes them."""

    def __init__(self, *, connect: str) -> None:
        """Make an empty view. `connect` is the address that workers dial, for the hints."""
        self.connect = connect
        self._workers: tuple[ConnectedWorker, ...] = ()
        self._waiting: Mapping[str, int] = {}

    def refresh(self, workers: Sequence[ConnectedWorker], waiting: Mapping[str, int]) -> None:
        """Take over what the database says."""
        self._workers = tuple(workers)
        self._waiting = dict(waiting)

    def page(self, size: int | None, page_token: str) -> tuple[list[ConnectedWorker], str]:
        """Return workers by key and name, all that are left when there is no size, and the token of the next page.

        A worker that comes or goes meanwhile moves no other one from page to page.

        Raises:
            InvalidArgument: the token is none of this list.
        """
        found = sorted(self._workers, key=lambda worker: worker.holder)
        if page_token:
            match decode_page_token(_PAGES, page_token):
                case [str(last)]:
                    found = [worker for worker in found if worker.holder > last]
                case _:
                    raise not_of_this_list()
        page = found[:size]
        return page, encode_page_token(_PAGES, [page[-1].holder]) if len(page) < len(found) else ""

    def of(self, pool: str) -> list[ConnectedWorker]:
        """Return the workers of a pool."""
        return [worker for worker in self._workers if worker.serves(pool)]

    def takers(self, pool: str, model: str) -> list[ConnectedWorker]:
        """Return the workers of a pool that take stages which run a model; those that enhance if it is empty."""
        return [worker for worker in self._workers if worker.takes(pool, model)]

    def hint(self, pool: str) -> str:
        """Return what to start when nobody of the pool is connected; empty when somebody is."""
        if self.of(pool):
            return ""
        worker_type, kind = parse_pool(pool)
        if kind is PoolKind.CHAT and self.of(worker_type):
            return (
                f"No connected worker of type {worker_type} holds conversations: its engine, or its release, does not "
                "know them."
            )
        if kind is PoolKind.STEERED and self.of(worker_type):
            return (
                f"No connected worker of type {worker_type} knows guidance, schedulers, LoRAs and last frames: its "
                "release is too old. Update it, or send the job without them."
            )
        return (
            f"No worker of type {worker_type} is connected. Start one: "
            f"atelier worker --connect {self.connect} --key-file FILE --types {worker_type}"
        )

    def waits_for(self, job: Job) -> str:
        """Return why the current stage of a job waits, in a sentence; empty when it does not."""
        if job.state is not JobState.QUEUED:
            return ""
        worker_type, pool = job.current.worker_type, job.current.pool
        if not self.of(pool):
            return self.hint(pool)
        takers = self.takers(pool, job.runs_model)
        if not takers:
            takes = f"takes the model {job.runs_model}" if job.runs_model else "enhances prompts"
            return f"No connected worker of type {worker_type} {takes}."
        if job.current.attempt:
            return f"Attempt {job.current.attempt} did not succeed; the next one follows after a pause."
        if any(worker.slots > worker.leases for worker in takers):
            return f"A worker of type {worker_type} is free; it starts in a moment, if no limit holds it."
        waiting = max(self._waiting.get(pool, 1), 1)
        return f"All workers of type {worker_type} are busy; {waiting} waiting."
