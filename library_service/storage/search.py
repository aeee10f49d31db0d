"""Every query that finds items among many: pages, counts, and which items still lack their words.

A page costs the same wherever it is in the list. PostgreSQL knows how frequent words are, and chooses: it reads the
list in its order until a page is full, or asks the index of words and sorts what it names. SQLite does not know, so it
reads some items in the order of the list, and asks the index when they do not fill the page: matches are rare then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.ext.asyncio import AsyncConnection

from library_service.domain import Item
from library_service.domain.selection import Counts, Place, Selection, Sort
from library_service.domain.words import VERSION, Asked, Labels, asked
from library_service.storage.items import of_owner, with_files
from library_service.storage.tables import item_tags, user_library
from service_kit.bulk import among
from service_kit.database import UtcDateTime
from service_kit.identity import Owner

READ_AHEAD = 4000
"""How many items are read for a page on SQLite before the index of words is asked."""

# The tokens of an item are longer than all the rest of it, and only its search reads them.
_SHOWN = tuple(column for column in user_library.c if column is not user_library.c.words)
_COLUMNS = {Sort.NEWEST: "created_at", Sort.OLDEST: "created_at", Sort.TITLE: "title_key"}


class Search:
    """Finds items within one transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def forget_deleted(self) -> None:
        """Have the index of words keep none of those whose items are gone. Slow on SQLite, which writes it anew."""
        if self._tx.dialect.name == "sqlite":
            await self._tx.execute(text("INSERT INTO item_words(item_words) VALUES('optimize')"))

    async def page(
        self, owner: Owner, selection: Selection, *, sort: Sort, after: Place | None, limit: int
    ) -> list[Item]:
        """Return the first items of a selection after a place; fewer than `limit` are all."""
        wanted = _wanted(owner, selection)
        if wanted is None:
            return []
        condition = and_(of_owner(owner), _narrow(selection), _after(user_library, sort, after))
        if wanted and not self._is_postgres:
            query = _in_order(select(user_library).where(condition), user_library, sort)
            return await with_files(self._tx, await self._read_ahead(query, sort, wanted, limit))
        query = _in_order(select(*_SHOWN).where(condition), user_library, sort)
        if wanted:
            query = query.where(self._named(wanted))
        return await with_files(self._tx, (await self._tx.execute(query.limit(limit))).all())

    async def _read_ahead(self, query: Select[Any], sort: Sort, wanted: Asked, limit: int) -> Sequence[Row[Any]]:
        """Return the first rows of a list that have some tokens, on SQLite."""
        ahead = query.limit(READ_AHEAD).subquery()
        conditions = [func.instr(ahead.c.words, f" {token} ") > 0 for token in wanted.tokens]
        if wanted.prefix is not None:
            conditions.append(func.instr(ahead.c.words, f" {wanted.prefix}") > 0)
        reading = select(ahead).where(and_(*conditions))
        found: Sequence[Row[Any]] = (await self._tx.execute(_in_order(reading, ahead, sort).limit(limit))).all()
        if len(found) < limit:
            found = (await self._tx.execute(query.where(self._named(wanted)).limit(limit))).all()
        return found

    async def has_any(self, owner: Owner, selection: Selection) -> bool:
        """Tell whether a selection has an item."""
        return bool(await self.page(owner, selection, sort=Sort.NEWEST, after=None, limit=1))

    async def count(self, owner: Owner, selection: Selection, *, at_most: int) -> Counts:
        """Count a selection, and its parts, up to a bound."""
        wanted = _wanted(owner, selection)
        if wanted is None:
            return Counts(0, False, 0, {}, {}, {})
        rows = user_library.c
        query = select(rows.item_id, rows.format, rows.model, rows.is_favourite).where(
            of_owner(owner), _narrow(selection), self._named(wanted) if wanted else true()
        )
        some = query.limit(at_most + 1).cte("some")
        by_kind = select(some.c.format, some.c.model, some.c.is_favourite, func.count().label("amount"))
        kinds = (await self._tx.execute(by_kind.group_by(some.c.format, some.c.model, some.c.is_favourite))).all()
        total = sum(kind.amount for kind in kinds)
        by_tag = (
            select(func.min(item_tags.c.tag).label("tag"), func.count().label("amount"))
            .where(item_tags.c.item_id.in_(select(some.c.item_id)))
            .group_by(item_tags.c.tag_key)
            .order_by(item_tags.c.tag_key)
        )
        return Counts(
            total=min(total, at_most),
            is_bound=total > at_most,
            favourites=sum(kind.amount for kind in kinds if kind.is_favourite),
            formats=_summed(kinds, "format"),
            models=_summed(kinds, "model"),
            tags={row.tag: row.amount for row in await self._tx.execute(by_tag)},
        )

    async def find_unread(self, *, limit: int) -> list[Item]:
        """Return items whose words nobody has written yet."""
        unread = select(user_library).where(user_library.c.words_version == 0, user_library.c.deleted_at.is_(None))
        return await with_files(self._tx, (await self._tx.execute(unread.limit(limit))).all())

    async def write_words(self, items: Sequence[tuple[Item, str, str]]) -> int:
        """Write model and tokens of items that are still as they were read. Returns how many were."""
        written = 0
        for item, model, words in items:
            changed = await self._tx.execute(
                update(user_library)
                .where(user_library.c.item_id == item.item_id, user_library.c.version == item.version)
                .where(user_library.c.deleted_at.is_(None))
                .values(model=model, words=words, words_version=VERSION)
            )
            written += changed.rowcount
        return written

    @property
    def _is_postgres(self) -> bool:
        return self._tx.dialect.name == "postgresql"

    def _named(self, wanted: Asked) -> ColumnElement[bool]:
        """Return the condition that an item has some tokens, such that the index of words can answer it."""
        if self._is_postgres:
            # In the text of the statement: of a parameter the planner would not know how frequent it is. A token has no
            # character that could end it.
            query = bindparam(None, _as_tsquery(wanted), Text, literal_execute=True)
            return user_library.c.words.bool_op("@@")(cast(query, TSQUERY))
        match = text("item_words MATCH :match").bindparams(match=_as_fts5(wanted))
        index = text("item_words JOIN item_words_numbers ON number = item_words.rowid")
        return user_library.c.item_id.in_(select(literal_column("item_id")).select_from(index).where(match))


def _wanted(owner: Owner, selection: Selection) -> Asked | None:
    labels = Labels(
        tags=selection.tags,
        is_favourite=selection.is_favourite,
        collection_ids=() if selection.collection_id is None else (selection.collection_id,),
    )
    return asked(
        owner,
        selection.text,
        format=selection.format,
        model=selection.model,
        seed=selection.seed,
        labels=labels,
    )


def _narrow(selection: Selection) -> ColumnElement[bool]:
    """Return the conditions that have columns of their own."""
    rows = user_library.c
    conditions: list[ColumnElement[bool]] = [
        rows.deleted_at.is_(None),
        rows.trashed_at.is_not(None) if selection.in_trash else rows.trashed_at.is_(None),
    ]
    if selection.created_from is not None:
        conditions.append(rows.created_at >= literal(selection.created_from, UtcDateTime))
    if selection.created_until is not None:
        conditions.append(rows.created_at < literal(selection.created_until, UtcDateTime))
    if selection.item_ids:
        conditions.append(among(rows.item_id, selection.item_ids))
    return and_(*conditions)


def _after(table: Any, sort: Sort, after: Place | None) -> ColumnElement[bool]:
    if after is None:
        return true()
    column = table.c[_COLUMNS[sort]]
    keys = tuple_(column, table.c.item_id)
    place = tuple_(literal(after[0], column.type), literal(after[1], Text))
    return keys < place if sort is Sort.NEWEST else keys > place


def _in_order(query: Select[Any], table: Any, sort: Sort) -> Select[Any]:
    keys = (table.c[_COLUMNS[sort]], table.c.item_id)
    return query.order_by(*(key.desc() if sort is Sort.NEWEST else key.asc() for key in keys))


def _as_tsquery(wanted: Asked) -> str:
    terms = [f"'{token}'" for token in wanted.tokens]
    return " & ".join(terms if wanted.prefix is None else [*terms, f"'{wanted.prefix}':*"])


def _as_fts5(wanted: Asked) -> str:
    terms = [f'"{token}"' for token in wanted.tokens]
    return " ".join(terms if wanted.prefix is None else [*terms, f'"{wanted.prefix}" *'])


def _summed(kinds: Sequence[Any], column: str) -> Mapping[str, int]:
    sums: dict[str, int] = {}
    for kind in kinds:
        name = getattr(kind, column)
        sums[name] = sums.get(name, 0) + kind.amount
    return {name: sums[name] for name in sorted(sums) if name}
