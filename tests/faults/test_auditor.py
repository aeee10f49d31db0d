"""The auditor: a clean run is clean, and each defect that is planted in one is found by its name.

The run is a real one, of few jobs and no faults. Most defects are planted in a copy of its databases and its object
store; those of watchers in what they wrote down.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from sqlalchemy.engine import make_url

from faults.auditor import audit
from faults.collect import collect, read_blob
from faults.engine import video_template
from faults.evidence import Evidence, Report
from faults.run import run_schedule
from faults.schedule import JobPlan, Schedule
from faults.sweeping import sweep
from service_kit.blobs import BlobInfo, NewBlob
from service_kit.blobs.local import LocalBlobStore
from tests.support.postgres import Databases, NoPostgres, PostgresServer

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

JOBS = (
    JobPlan(0, "ada", "picture", 1),
    JobPlan(1, "ben", "batch", 3, refused=1),
    JobPlan(2, "ada", "two_stage", 1, flaky=1),
    JobPlan(3, "ben", "video", 1, twice=True),
    JobPlan(4, "ada", "enhancement", 1),
    JobPlan(5, "ben", "picture", 1, doomed=True),
    JobPlan(6, "ada", "picture", 1, cancel="running"),
)


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over: its evidence, its database and its blobs."""

    evidence: Evidence
    server: PostgresServer
    database_url: str
    blobs: Path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """Run a small schedule without faults, and keep everything."""
    folder = tmp_path_factory.mktemp("finished")
    try:
        server = PostgresServer()
    except NoPostgres as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    with server:
        url = Databases(server.url()).create()
        schedule = Schedule(0, JOBS, ())
        result, evidence = asyncio.run(run_schedule(schedule, server, url, folder, video_template()))
        assert (result.verdict, result.findings) == ("passed", [])
        yield Finished(evidence, server, url, folder / "data" / "blobs")


@dataclass(frozen=True, slots=True)
class Scene:
    """A copy of the run in which a defect may be planted."""

    evidence: Evidence
    database_url: str
    blobs: Path

    def sql(self, *statements: str) -> None:
        """Change the copy of the databases."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def blob_of_an_asset(self) -> Path:
        """Return the blob of some asset: a folder, or a file when it is small."""
        return self._blob("SELECT bucket, key FROM asset.workspace_assets WHERE state = 'available' ORDER BY asset_id")

    def blob_that_is_known(self, bucket: str) -> Path:
        """Return a blob that somebody would miss: the end of the services may leave others, half copied."""
        if bucket == "workspace-temp":
            return self.blob_of_an_asset()
        return self._blob("SELECT bucket, key FROM library.blobs WHERE state = 'live' ORDER BY blob_id")

    def _blob(self, query: LiteralString) -> Path:
        with psycopg.connect(self.database_url) as connection:
            row = connection.execute(query).fetchone()
        assert row is not None
        return self.blobs / str(row[0]) / f"{row[1]}.blob"

    def succeeded(self) -> str:
        """Return a job with outputs that succeeded."""
        return next(made.job_id for made in self.evidence.submissions if made.number == 0)


@pytest.fixture
def scene(finished: Finished, tmp_path: Path) -> Iterator[Scene]:
    """Copy databases, blobs and evidence."""
    template = make_url(finished.database_url).database
    name = f"copy_{tmp_path.name.replace('-', '_')[:40]}".lower()
    with psycopg.connect(finished.server.url(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY wal_log')
    blobs = tmp_path / "blobs"
    shutil.copytree(finished.blobs, blobs)
    yield Scene(copy.deepcopy(finished.evidence), finished.server.url(name), blobs)
    with psycopg.connect(finished.server.url(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def lost_job(scene: Scene) -> None:
    scene.sql(f"DELETE FROM router.jobs WHERE job_id = '{scene.succeeded()}'")


def job_that_hangs(scene: Scene) -> None:
    scene.sql(f"UPDATE router.jobs SET state = 'publishing' WHERE job_id = '{scene.succeeded()}'")


def job_that_failed_for_nothing(scene: Scene) -> None:
    scene.sql(f"UPDATE router.jobs SET state = 'failed' WHERE job_id = '{scene.succeeded()}'")


def missing_output(scene: Scene) -> None:
    scene.sql(f"DELETE FROM asset.workspace_assets WHERE job_id = '{scene.succeeded()}'")


def output_twice(scene: Scene) -> None:
    scene.sql(
        "ALTER TABLE asset.workspace_assets DROP CONSTRAINT workspace_assets_output",
        f"CREATE TABLE twin AS SELECT * FROM asset.workspace_assets WHERE job_id = '{scene.succeeded()}'",
        "UPDATE twin SET asset_id = 'another'",
        "INSERT INTO asset.workspace_assets SELECT * FROM twin",
    )


def asset_after_success(scene: Scene) -> None:
    scene.sql("UPDATE asset.workspace_assets SET created_at = created_at + interval '1 minute'")


def success_without_assets_in_the_listing(notes: Evidence) -> None:
    notes.checks[:] = [replace(check, listed=[]) for check in notes.checks]


def staged_output_shown(scene: Scene) -> None:
    sight = next(sight for sight in scene.evidence.asset_sights if sight.how == "published")
    scene.sql(f"DELETE FROM asset.settlements WHERE job_id = '{sight.job_id}'")


def output_shown_too_early(notes: Evidence) -> None:
    sight = next(sight for sight in notes.asset_sights if sight.how == "published")
    notes.asset_sights.append(replace(sight, at=sight.at - 60))


def changed_bytes(scene: Scene) -> None:
    blob = scene.blob_of_an_asset()
    data, _ = read_blob(blob)
    path = blob / "data" if blob.is_dir() else blob
    content = bytearray(path.read_bytes())
    content[content.index(data) + len(data) - 1] ^= 1
    path.write_bytes(content)


def lost_bytes(scene: Scene) -> None:
    blob = scene.blob_of_an_asset()
    shutil.rmtree(blob) if blob.is_dir() else blob.unlink()


def bytes_of_another(notes: Evidence) -> None:
    notes.submissions[:] = [replace(made, number=(made.number + 1) % 7) for made in notes.submissions]


def leave_to_nobody(blob: Path) -> None:
    """Put a copy of a blob beside it that no row knows."""
    copy = blob.with_name("nobody.blob")
    copy.mkdir()
    data, noted = read_blob(blob)
    (copy / "data").write_bytes(data)
    (copy / "meta.json").write_text(json.dumps(noted))


def blob_of_nobody(scene: Scene) -> None:
    leave_to_nobody(scene.blob_of_an_asset())


def change_not_told(notes: Evidence) -> None:
    del notes.sights[_of_a_watcher(notes)]


def change_told_twice(notes: Evidence) -> None:
    notes.sights.append(notes.sights[_of_a_watcher(notes)])


def changes_out_of_order(notes: Evidence) -> None:
    sights, place = notes.sights, _of_a_watcher(notes)
    later = next(
        number
        for number in range(place + 1, len(sights))
        if (sights[number].watcher, sights[number].job_id) == (sights[place].watcher, sights[place].job_id)
    )
    sights[place], sights[later] = sights[later], sights[place]


def state_that_went_back(notes: Evidence) -> None:
    end = next(sight for sight in notes.sights if sight.state == "succeeded")
    notes.sights.append(replace(end, version=end.version + 1, state="queued"))


def second_end(notes: Evidence) -> None:
    end = next(sight for sight in notes.sights if sight.state == "succeeded")
    notes.sights.append(replace(end, version=end.version + 1, state="failed"))


def place_lost(notes: Evidence) -> None:
    notes.sights[:] = [replace(sight, how="snapshot again") for sight in notes.sights]


def lease_left(scene: Scene) -> None:
    scene.sql(
        "CREATE TABLE entry AS SELECT j.job_id, 'settle' AS kind, 0 AS tries, now() AS t FROM router.jobs j LIMIT 1",
        "INSERT INTO router.outbox (kind, job_id, tries, due_at, created_at)"
        " SELECT kind, job_id, tries, t, t FROM entry",
    )


def settlement_lost(scene: Scene) -> None:
    scene.sql(f"DELETE FROM asset.settlements WHERE job_id = '{scene.succeeded()}'")


def outcome_twice(scene: Scene) -> None:
    scene.sql(
        "CREATE TABLE again AS SELECT * FROM router.outcomes LIMIT 1",
        "UPDATE again SET completion_id = 'another'",
        "INSERT INTO router.outcomes SELECT * FROM again",
    )


def two_jobs_of_one_key(notes: Evidence) -> None:
    made = notes.submissions[0]
    notes.submissions.append(replace(made, job_id="another"))


def liar_believed(notes: Evidence) -> None:
    notes.reports.append(Report("old fence", notes.submissions[0].job_id, 1, "RECORDED", ["STALE"]))


def odd_answer(notes: Evidence) -> None:
    notes.oddities.append("GenerateContent was answered INTERNAL")


def _of_a_watcher(notes: Evidence) -> int:
    """Return the place of a sight in the middle of what a watcher of an owner saw of a job."""
    return next(
        number for number, sight in enumerate(notes.sights) if sight.watcher.startswith("jobs-") and sight.version == 2
    )


def item_lost(scene: Scene) -> None:
    scene.sql("DELETE FROM library.item_files", "DELETE FROM library.user_library")


def item_of_no_save(scene: Scene) -> None:
    scene.sql("UPDATE library.user_library SET asset_id = 'not ' || asset_id")


def item_whose_blob_is_going(scene: Scene) -> None:
    scene.sql("UPDATE library.blobs SET state = 'deleting'")


def mark_lost(scene: Scene) -> None:
    scene.sql("UPDATE asset.workspace_assets SET saved_item_id = ''")


def item_with_the_bytes_of_another(scene: Scene) -> None:
    scene.sql("UPDATE library.blobs SET sha256 = 'not ' || sha256")


IN_STORE: list[tuple[Callable[[Scene], None], str]] = [
    (lost_job, "job lost"),
    (job_that_hangs, "job not ended"),
    (job_that_failed_for_nothing, "wrong end"),
    (missing_output, "output missing"),
    (output_twice, "output twice"),
    (asset_after_success, "success before the assets"),
    (staged_output_shown, "staged output visible"),
    (changed_bytes, "wrong digest"),
    (lost_bytes, "blob missing"),
    (blob_of_nobody, "unknown blob"),
    (lease_left, "left over"),
    (settlement_lost, "never settled"),
    (outcome_twice, "recorded twice"),
    (item_lost, "item missing"),
    (item_of_no_save, "item of no save"),
    (item_whose_blob_is_going, "item without bytes"),
    (item_with_the_bytes_of_another, "item of other bytes"),
    (mark_lost, "not marked as saved"),
]


def saved_twice(notes: Evidence) -> None:
    notes.saved.append(replace(notes.saved[0], item_id="another"))


IN_NOTES: list[tuple[Callable[[Evidence], None], str]] = [
    (success_without_assets_in_the_listing, "success before the assets"),
    (output_shown_too_early, "staged output visible"),
    (bytes_of_another, "another's bytes"),
    (change_not_told, "change not told"),
    (change_told_twice, "change told twice"),
    (changes_out_of_order, "changes out of order"),
    (state_that_went_back, "state went backwards"),
    (second_end, "ended twice"),
    (place_lost, "snapshot instead of events"),
    (two_jobs_of_one_key, "accepted twice"),
    (liar_believed, "wrong answer"),
    (odd_answer, "odd"),
    (saved_twice, "saved twice"),
]


async def test_a_copy_of_a_clean_run_is_clean(scene: Scene) -> None:
    await collect(scene.evidence, scene.database_url, scene.blobs)
    assert audit(scene.evidence) == []


@pytest.mark.parametrize("bucket", ["workspace-temp", "user-library"])
async def test_a_sweep_of_both_buckets_says_what_was_lost_and_what_was_left(scene: Scene, bucket: str) -> None:
    data = scene.blobs.parent
    assert await sweep(data, scene.database_url) == []
    blob = scene.blob_that_is_known(bucket)
    leave_to_nobody(blob)
    shutil.rmtree(blob) if blob.is_dir() else blob.unlink()
    said = [finding.sentence for finding in await sweep(data, scene.database_url)]
    assert [sentence.partition(" ")[0] for sentence in said] == ["blob_without_row", "row_without_blob"]


@pytest.mark.parametrize(("plant", "name"), IN_STORE, ids=[plant.__name__ for plant, _ in IN_STORE])
async def test_a_defect_in_databases_or_store_is_found(scene: Scene, plant: Callable[[Scene], None], name: str) -> None:
    plant(scene)
    await collect(scene.evidence, scene.database_url, scene.blobs)
    assert name in {finding.name for finding in audit(scene.evidence)}


@pytest.mark.parametrize(("plant", "name"), IN_NOTES, ids=[plant.__name__ for plant, _ in IN_NOTES])
def test_a_defect_in_what_was_seen_is_found(finished: Finished, plant: Callable[[Evidence], None], name: str) -> None:
    notes = copy.deepcopy(finished.evidence)
    plant(notes)
    assert name in {finding.name for finding in audit(notes)}


@pytest.mark.parametrize(
    ("holder", "expires_at", "is_left"),
    [("save:1", NOON, False), ("late:1", NOON, False), ("late:1", None, True), ("job:1", NOON, True)],
)
def test_only_what_a_library_holds_for_a_time_lapses_by_itself(
    finished: Finished, holder: str, expires_at: datetime | None, is_left: bool
) -> None:
    notes = copy.deepcopy(finished.evidence)
    notes.tables["asset.holds"].append({"holder": holder, "expires_at": expires_at})
    assert ("left over" in {finding.name for finding in audit(notes)}) is is_left


@pytest.mark.parametrize(
    ("holder", "attempts", "is_left"), [("late:1", 0, False), ("late:1", 1, True), ("save:1", 0, True)]
)
def test_only_a_note_of_a_late_copy_that_nobody_tried_may_be_there(
    finished: Finished, holder: str, attempts: int, is_left: bool
) -> None:
    notes = copy.deepcopy(finished.evidence)
    notes.tables["library.outbox"] = [{"kind": "release_hold", "payload": {"holder": holder}, "attempts": attempts}]
    assert ("left over" in {finding.name for finding in audit(notes)}) is is_left


def test_evidence_that_was_kept_is_read_back(finished: Finished, tmp_path: Path) -> None:
    finished.evidence.save(tmp_path)
    assert Evidence.load(tmp_path) == finished.evidence


async def test_what_shares_a_file_with_others_is_read_as_the_store_reads_it(tmp_path: Path) -> None:
    store, blobs = LocalBlobStore(tmp_path), list[NewBlob]()
    for data in (b"one", b"", b"three"):
        blobs.append(NewBlob(f"ann/{len(blobs)}", data, hashlib.sha256(data).hexdigest(), "image/png"))
    written = await store.put_many("workspace-temp", blobs)
    for blob, info in zip(blobs, written, strict=True):
        data, noted = await asyncio.to_thread(read_blob, tmp_path / "workspace-temp" / f"{blob.key}.blob")
        assert (data, noted["sha256"]) == (blob.data, blob.sha256)
        assert isinstance(info, BlobInfo)
        assert noted["generation"] == info.generation


async def test_a_copy_has_the_bytes_of_a_blob_and_not_what_is_noted_of_that(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put_bytes("workspace-temp", "small", b"few", content_type="image/png")
    copied = await store.copy(("workspace-temp", "small"), ("user-library", "copy"))
    data, noted = await asyncio.to_thread(read_blob, tmp_path / "user-library" / "copy.blob")
    assert (data, noted["generation"]) == (b"few", copied.generation)
