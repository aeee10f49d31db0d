"""The library's migrations."""

LATER_INDEXES = {
    "user_library_by_title": "ON user_library (tenant_id, owner_id, title_key, item_id) WHERE deleted_at IS NULL",
    "user_library_trashed": (
        "ON user_library (tenant_id, owner_id, created_at, item_id) WHERE trashed_at IS NOT NULL AND deleted_at IS NULL"
    ),
    "user_library_unread": "ON user_library (item_id) WHERE words_version = 0 AND deleted_at IS NULL",
    # Without a list of pending words, through which every search would have to read.
    "user_library_words": "ON user_library USING gin (words) WITH (fastupdate = off)",
}
"""What 0006 makes on SQLite, where nobody else has the file; see `service_kit/later_indexes.py`."""
