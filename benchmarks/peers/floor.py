"""What PostgreSQL itself can do for a job: enqueue, claim, complete with an asset row, in batches."""

from __future__ import annotations

import threading
import time

import psycopg

_SCHEMA = """
CREATE TABLE jobs (job_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, state text NOT NULL, body text NOT NULL);
CREATE INDEX jobs_waiting ON jobs (job_id) WHERE state = 'queued';
CREATE TABLE assets (job_id bigint, asset_index int, body text NOT NULL, PRIMARY KEY (job_id, asset_index));
"""
_ENQUEUE = "INSERT INTO jobs (state, body) SELECT 'queued', body FROM unnest(%s::text[]) AS body"
_CLAIM = """
UPDATE jobs SET state = 'running' FROM (
    SELECT job_id FROM jobs WHERE state = 'queued' ORDER BY job_id LIMIT %s FOR UPDATE SKIP LOCKED
) AS next WHERE jobs.job_id = next.job_id RETURNING jobs.job_id
"""
_COMPLETE = "UPDATE jobs SET state = 'succeeded' WHERE job_id = ANY(%s)"
_PUBLISH = "INSERT INTO assets (job_id, asset_index, body) SELECT job_id, 0, %s FROM unnest(%s::bigint[]) AS job_id"
_BODY = "x" * 500


def prepare(url: str) -> None:
    """Make the tables in an empty database."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_SCHEMA)


def jobs_per_second(url: str, *, batch: int, connections: int, seconds: float) -> float:
    """Run for some seconds with so many connections, each in a thread; returns the jobs completed per second."""
    done: list[int] = []
    faults: list[psycopg.Error] = []
    started = time.monotonic()
    ends_at = started + seconds

    def work() -> None:
        try:
            with psycopg.connect(url) as connection:
                done.append(_work(connection, batch, ends_at))
        except psycopg.Error as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return sum(done) / (time.monotonic() - started)


def _work(connection: psycopg.Connection, batch: int, ends_at: float) -> int:
    completed = 0
    while time.monotonic() < ends_at:
        with connection.transaction():
            connection.execute(_ENQUEUE, ([_BODY] * batch,))
        with connection.transaction():
            claimed = [row[0] for row in connection.execute(_CLAIM, (batch,))]
        with connection.transaction():
            connection.execute(_COMPLETE, (claimed,))
            connection.execute(_PUBLISH, (_BODY, claimed))
        completed += len(claimed)
    return completed
