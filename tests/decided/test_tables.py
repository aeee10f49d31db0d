"""What was decided once for every database, asked of the tables themselves."""

from __future__ import annotations

import pytest
from sqlalchemy import Column, DateTime, Table

import router_service.storage.identity_tables
import router_service.storage.tables  # noqa: F401 - they belong to the metadata
from asset_service.storage.tables import metadata as asset_metadata
from library_service.storage.tables import metadata as library_metadata
from router_service.storage.metadata import metadata as router_metadata
from service_kit.database import UtcDateTime

TABLES = [
    pytest.param(table, id=f"{service}.{table.name}")
    for service, metadata in (("router", router_metadata), ("asset", asset_metadata), ("library", library_metadata))
    for table in metadata.sorted_tables
]
# They belong to nobody, or to the row that they name.
OWNERLESS = {
    *("event_source", "exchange", "models", "chat_models", "pools", "workers", "outbox", "deletion_pause"),
    *("outcomes", "holds", "item_files"),
    # What is kept of an owner that was erased must not say who it was.
    "erased_owners",
}


@pytest.mark.parametrize("table", TABLES)
def test_every_row_that_is_somebodys_says_whose(table: Table) -> None:
    has_owner = {"tenant_id", "owner_id"} & set(table.columns.keys())
    assert has_owner == (set() if table.name in OWNERLESS else {"tenant_id", "owner_id"})
    assert not any(column.nullable for column in table.columns if column.name in has_owner)


@pytest.mark.parametrize("table", TABLES)
def test_every_moment_has_the_one_column_type(table: Table) -> None:
    def is_wrong(column: Column[object]) -> bool:
        is_moment = isinstance(column.type, DateTime) or column.name.endswith("_at")
        return is_moment and not isinstance(column.type, UtcDateTime)

    assert [column.name for column in table.columns if is_wrong(column)] == []


@pytest.mark.parametrize("table", TABLES)
def test_files_are_named_by_bucket_and_key_never_by_an_address(table: Table) -> None:
    names = set(table.columns.keys())
    assert not {name for name in names if "url" in name or "path" in name}
    assert ("bucket" not in names) or {"bucket", "key", "generation"} <= names


def test_saved_once_and_one_asset_for_each_output_hold_in_the_database() -> None:
    indexes = {str(index.name): index for index in library_metadata.tables["user_library"].indexes}
    saved_once = indexes["user_library_saved_once"]
    assert saved_once.unique
    assert [column.name for column in saved_once.columns] == ["tenant_id", "owner_id", "asset_id"]
    (asset_key,) = asset_metadata.tables["workspace_assets"].primary_key.columns
    assert asset_key.name == "asset_id", "it is made from job and index"
