"""The bytes of each asset are those of its row and of its job; blobs that no asset owns are counted and explained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from faults.audits.rows import settlements_by_job
from faults.evidence import Evidence, Row
from faults.finding import Finding

_LEAST_BYTES = 100_000


def bytes_are_right(evidence: Evidence) -> list[Finding]:
    """Each asset's blob is there, has the digest and the size of the row, and was made for this job and index."""
    found = []
    blobs = {blob["key"]: blob for blob in evidence.blobs}
    numbers = {made.job_id: made.number for made in evidence.submissions}
    for row in evidence.tables["asset.workspace_assets"]:
        if row["state"] == "removed":
            continue
        name = f"{row['job_id']} index {row['asset_index']}"
        blob = blobs.get(row["key"])
        if blob is None:
            found.append(Finding("blob missing", name))
            continue
        if (blob["sha256"], blob["size_bytes"]) != (row["sha256"], row["size_bytes"]):
            found.append(Finding("wrong digest", f"{name}: the bytes are not those of the row"))
        elif blob["generation"] != row["generation"]:
            found.append(Finding("wrong generation", name))
        elif blob["size_bytes"] < _LEAST_BYTES:
            found.append(Finding("too small", f"{name}: {blob['size_bytes']} bytes"))
        mark = f"atelier-faults plan={numbers.get(row['job_id'])} index={row['asset_index']};"
        if blob["mark"] != mark:
            found.append(Finding("another's bytes", f"{name} has the bytes of {blob['mark']!r}"))
        found += [Finding("rendition missing", f"{name}: {key}") for key in _rendition_keys(row) if key not in blobs]
    return found


def none_unknown(evidence: Evidence) -> list[Finding]:
    """A blob that no asset owns has an upload's row that says what becomes of it."""
    return [Finding("unknown blob", f"{key} has no row") for key, why in _unowned(evidence) if why == "no row"]


def unowned(evidence: Evidence) -> dict[str, int]:
    """Return how many blobs no asset owns, by the reason why they are there."""
    return dict(Counter(why for _, why in _unowned(evidence)))


def _unowned(evidence: Evidence) -> Iterator[tuple[str, str]]:
    owned = set()
    for row in evidence.tables["asset.workspace_assets"]:
        owned |= {row["key"], *_rendition_keys(row)}
    uploads = {row["key"]: row for row in evidence.tables["asset.uploads"]}
    settled = settlements_by_job(evidence)
    for blob in evidence.blobs:
        if blob["key"] in owned:
            continue
        upload = uploads.get(blob["key"])
        if upload is None:
            yield blob["key"], "no row"
        elif upload["state"] == "deleting":
            yield blob["key"], "of an upload that lost, waiting for its deletion"
        elif upload["job_id"] is None and upload["rendition"]:
            yield blob["key"], "a rendition in the making"
        else:
            ended = "a settled" if upload["job_id"] in settled else "an unsettled"
            yield blob["key"], f"{upload['state']} by {ended} job"


def _rendition_keys(row: Row) -> list[str]:
    return [rendition["key"] for rendition in row["renditions"]]
