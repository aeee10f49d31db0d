"""What was said to be saved is saved, once, with its bytes; and the workspace says so."""

from __future__ import annotations

from collections import defaultdict

from faults.audits.rows import grouped
from faults.evidence import Evidence, Row
from faults.finding import Finding


def saved_once(evidence: Evidence) -> list[Finding]:
    """Each asset that was saved is one item, the one that every save was answered with; nothing else is an item."""
    found = []
    items = grouped(evidence.tables["library.user_library"], "asset_id")
    files = grouped(evidence.tables["library.item_files"], "item_id")
    blobs = {row["blob_id"]: row for row in evidence.tables["library.blobs"]}
    assets = {row["asset_id"]: row for row in evidence.tables["asset.workspace_assets"]}
    told: dict[str, set[str]] = defaultdict(set)
    for saved in evidence.saved:
        told[saved.asset_id].add(saved.item_id)
    for asset_id, item_ids in told.items():
        rows = items.get(asset_id, [])
        if {row["item_id"] for row in rows} != item_ids:
            found.append(
                Finding("item missing", f"{asset_id} was saved as {sorted(item_ids)}, and {len(rows)} are there")
            )
        if len(rows) > 1 or len(item_ids) > 1:
            found.append(Finding("saved twice", f"{asset_id} is more than one item"))
        for row in rows:
            found += _of_item(row, assets.get(asset_id), files.get(row["item_id"], []), blobs)
    found += [Finding("item of no save", asset_id) for asset_id in sorted(set(items) - set(told))]
    return found


def _of_item(item: Row, asset: Row | None, files: list[Row], blobs: dict[str, Row]) -> list[Finding]:
    name = f"{item['item_id']} of {item['asset_id']}"
    found = []
    if asset is None or asset["owner_id"] != item["owner_id"]:
        found.append(Finding("item of another", name))
    elif asset["saved_item_id"] != item["item_id"]:
        found.append(Finding("not marked as saved", name))
    used = [blobs.get(row["blob_id"]) for row in files]
    if not used or any(blob is None or blob["state"] != "live" for blob in used):
        found.append(Finding("item without bytes", name))
    elif asset is not None and asset["sha256"] not in {blob["sha256"] for blob in used if blob is not None}:
        found.append(Finding("item of other bytes", name))
    return found
