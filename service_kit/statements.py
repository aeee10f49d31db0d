"""Statements whose SQL, parameters and columns are worked out once, instead of by SQLAlchemy at each execution.

That costs more than to run most of them on SQLite. It is done for a statement that is executed for the second time:
one that is kept, such as a constant of a module. One that is made for each use stays SQLAlchemy's, which knows it again
by its form. So does what is more than SQL with its values: defaults made in Python, lists of unknown length, and rows
that many insertions return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Dialect, Executable, SelectBase, TextClause, UpdateBase
from sqlalchemy.engine.result import IteratorResult, SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler

_Step = Callable[[Any], Any]
_KINDS = (SelectBase, UpdateBase, TextClause)
_NO_COLUMNS = SimpleResultMetaData(())


class Answer(IteratorResult[Any]):
    """The rows of a statement, and how many it changed."""

    def __init__(self, metadata: SimpleResultMetaData, rows: Sequence[Any], rowcount: int) -> None:
        super().__init__(metadata, iter(rows))
        self.rowcount = rowcount


class Plan:
    """One statement with parameters of certain names: its SQL, how values are written and rows are read."""

    def __init__(self, compiled: SQLCompiler, names: Sequence[str]) -> None:
        """Take what was compiled; `names` are those of the parameters that will be given."""
        # Nothing of what was compiled is kept: it knows the statement, which then would never be forgotten.
        self.sql = str(compiled)
        self._values = [_value(compiled, name, names) for name in compiled.positiontup or ()]
        self._declared = _declared(compiled)
        self._is_ordered = bool(compiled._ordered_columns)
        self._columns: tuple[str, ...] = ()
        self._metadata = _NO_COLUMNS

    def values(self, parameters: Mapping[str, Any]) -> list[Any]:
        """Return the values in the order of the SQL. Raises what a value raises that cannot be written."""
        return [
            fixed if name is None else parameters[name] if step is None else step(parameters[name])
            for name, step, fixed in self._values
        ]

    def answer(self, description: Sequence[Sequence[Any]] | None, rows: Sequence[Any], rowcount: int) -> Answer:
        """Return what the statement answered, from what the driver's cursor says."""
        if description is None:
            return Answer(_NO_COLUMNS, (), rowcount)
        columns = tuple([column[0] for column in description])
        if columns != self._columns:
            self._columns, self._metadata = columns, self._reading(columns)
        return Answer(self._metadata, rows, rowcount)

    def _reading(self, columns: Sequence[str]) -> SimpleResultMetaData:
        """Return what rows are read with: by place where the statement says which columns come, else by their names."""
        if self._is_ordered and len(self._declared) == len(columns):
            read = [(key, step) for _, key, step in self._declared]
        else:
            named = {name: (key, step) for name, key, step in self._declared}
            read = [named.get(column, (column, None)) for column in columns]
        steps: list[Any] = [step for _, step in read]
        return SimpleResultMetaData([key for key, _ in read], _processors=steps)


class Plans:
    """The plans of the statements that one database is asked, for as long as the statements live."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Executable, dict[tuple[bool, tuple[str, ...]], Plan | None]] = (
            WeakKeyDictionary()
        )

    def find(self, statement: Executable, names: tuple[str, ...], dialect: Dialect, *, many: bool) -> Plan | None:
        """Return the plan of a statement with parameters of these names; None to leave it to SQLAlchemy."""
        if not isinstance(statement, _KINDS):
            return None
        plans = self._known.get(statement)
        if plans is None:
            self._known[statement] = {}
            return None
        key = (many, names)
        if key not in plans:
            plans[key] = _plan(statement, names, dialect, many=many)
        return plans[key]


def _plan(statement: Any, names: tuple[str, ...], dialect: Dialect, *, many: bool) -> Plan | None:
    compiled = statement.compile(dialect=dialect, column_keys=list(names), for_executemany=many)
    takes_more = (
        compiled.insert_prefetch
        or compiled.update_prefetch
        or compiled.post_compile_params
        or compiled.literal_execute_params
        or compiled.escaped_bind_names
        or (many and compiled.effective_returning)
        or any(bound.callable is not None for bound in compiled.binds.values())
    )
    return None if takes_more else Plan(compiled, names)


def _value(compiled: SQLCompiler, name: str, names: Sequence[str]) -> tuple[str | None, _Step | None, Any]:
    """Return of one place in the SQL: which parameter it is and how that is written, or what it always is."""
    bound = compiled.binds[name]
    step: Any = compiled._bind_processors.get(name)
    if bound.key in names or bound.required:
        return bound.key, step, None
    return None, None, bound.value if step is None else step(bound.value)


def _declared(compiled: SQLCompiler) -> list[tuple[str, str, _Step | None]]:
    """Return of each column that a statement declares: its name in SQL, its key in a row, and how a value is read."""
    return [
        (entry.name, entry.keyname, entry.type._cached_result_processor(compiled.dialect, None))
        for entry in compiled._result_columns
    ]
