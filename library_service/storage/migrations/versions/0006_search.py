"""Items have labels and are searched by words.

The previous release writes items without words; upkeep adds them. It deletes items and not their labels, which then go
with the row. On PostgreSQL the indexes of `user_library` are built afterwards (`LATER_INDEXES`). On SQLite triggers
keep the full-text index in step with the column, so that whatever writes the row writes the index.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

from service_kit.database import UtcDateTime

revision = "0006"
down_revision = "0005"

_IN_TRASH = sa.text("trashed_at IS NOT NULL AND deleted_at IS NULL")
_NOT_DELETED = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    bytewise = sa.Text() if is_sqlite else sa.Text(collation="C")
    for column in (
        sa.Column("title", sa.Text, nullable=False, server_default=""),
        sa.Column("title_key", bytewise, nullable=False, server_default=""),
        sa.Column("notes", sa.Text, nullable=False, server_default=""),
        sa.Column("is_favourite", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("model", sa.Text, nullable=False, server_default=""),
        sa.Column("words", sa.Text() if is_sqlite else TSVECTOR()),
        sa.Column("words_version", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("user_library", column)
    _labels(bytewise)
    if is_sqlite:
        _indexes()
        _full_text_on_sqlite()


def _indexes() -> None:
    by_title = ["tenant_id", "owner_id", "title_key", "item_id"]
    op.create_index("user_library_by_title", "user_library", by_title, sqlite_where=_NOT_DELETED)
    trashed = ["tenant_id", "owner_id", "created_at", "item_id"]
    op.create_index("user_library_trashed", "user_library", trashed, sqlite_where=_IN_TRASH)
    unread = sa.text("words_version = 0 AND deleted_at IS NULL")
    op.create_index("user_library_unread", "user_library", ["item_id"], sqlite_where=unread)


def _labels(bytewise: sa.Text) -> None:
    op.create_table(
        "item_tags",
        sa.Column("item_id", sa.Text, sa.ForeignKey("user_library.item_id", ondelete="CASCADE"), nullable=False),
        sa.Column("tag_key", bytewise, nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("item_id", "tag_key"),
    )
    op.create_index("item_tags_by_owner", "item_tags", ["tenant_id", "owner_id", "tag_key"])
    op.create_table(
        "collections",
        sa.Column("collection_id", sa.Text, primary_key=True),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", bytewise, nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    op.create_index("collections_by_name", "collections", ["tenant_id", "owner_id", "name_key"], unique=True)
    op.create_table(
        "collection_items",
        sa.Column("collection_id", sa.Text, sa.ForeignKey("collections.collection_id"), nullable=False),
        sa.Column("item_id", sa.Text, sa.ForeignKey("user_library.item_id", ondelete="CASCADE"), nullable=False),
        sa.Column("tenant_id", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("added_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("collection_id", "item_id"),
    )
    op.create_index("collection_items_by_item", "collection_items", ["item_id"])


def _full_text_on_sqlite() -> None:
    # Rowids of a table without an integer key change when a file is compacted: the numbers of items are kept.
    op.execute(
        "CREATE TABLE item_words_numbers (number INTEGER PRIMARY KEY AUTOINCREMENT, item_id TEXT NOT NULL UNIQUE)"
    )
    # The tokenizer takes every character beyond ASCII for a letter: what is written between spaces is one token.
    op.execute("CREATE VIRTUAL TABLE item_words USING fts5(words, content='', tokenize='ascii', detail='none')")
    number = "(SELECT number FROM item_words_numbers WHERE item_id = {0}.item_id)"
    forget = f"INSERT INTO item_words (item_words, rowid, words) VALUES ('delete', {number.format('old')}, old.words);"  # noqa: S608
    known = "INSERT OR IGNORE INTO item_words_numbers (item_id) VALUES (new.item_id);"
    learn = f"{known} INSERT INTO item_words (rowid, words) VALUES ({number.format('new')}, new.words);"  # noqa: S608
    for name, when, body in (
        ("added", "AFTER INSERT ON user_library WHEN new.words IS NOT NULL", learn),
        ("forgotten", "BEFORE UPDATE OF words ON user_library WHEN old.words IS NOT NULL", forget),
        ("changed", "AFTER UPDATE OF words ON user_library WHEN new.words IS NOT NULL", learn),
        ("removed", "BEFORE DELETE ON user_library WHEN old.words IS NOT NULL", forget),
        ("gone", "AFTER DELETE ON user_library", "DELETE FROM item_words_numbers WHERE item_id = old.item_id;"),
    ):
        op.execute(f"CREATE TRIGGER item_words_{name} {when} BEGIN {body} END")
