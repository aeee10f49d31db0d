"""Writes what each pipeline can do into docs/engines.md: `python -m scripts.engine_features`.

It reads the tables that the engines refuse by: `FEATURES` in every module of an engine that is named `features` or
`…_features`. These need none of the libraries that hold models.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from atelier_worker import engines
from atelier_worker.engines.features import NAMES, Row, Support
from scripts.markdown import DOCS, table, write

NAME = "engines.md"
BEGIN = "<!-- features: begin. Made by `python -m scripts.engine_features`; edit the tables in the engines. -->\n"
END = "<!-- features: end -->"


def tables() -> Mapping[str, Mapping[str, Row]]:
    """Return the engines by name, and of each its pipelines in the order of its tables."""
    found: dict[str, dict[str, Row]] = {}
    for package, module in _modules():
        rows: Mapping[str, Row] = importlib.import_module(f"{engines.__name__}.{package}.{module}").FEATURES
        found.setdefault(package.removesuffix("_engine"), {}).update(rows)
    return found


def render() -> str:
    """Return the page with what is made in its place."""
    page = (DOCS / NAME).read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + made() + END + after


def made() -> str:
    """Return the tables: a row for each feature, a column for each pipeline, and the sentences of the refusals."""
    parts = []
    for engine, pipelines in sorted(tables().items()):
        sentences = list(dict.fromkeys(_sentences(pipelines)))
        lines = [(text, *(_cell(row[name], sentences) for row in pipelines.values())) for name, text in NAMES.items()]
        parts.append(f"\n### The engine {engine}\n\n{table(('', *(f'`{name}`' for name in pipelines)), lines)}\n")
        if sentences:
            parts.append("\n" + "".join(f"{number}. {text}\n" for number, text in enumerate(sentences, 1)))
    return "".join(parts) + "\n"


def _cell(support: Support, sentences: Sequence[str]) -> str:
    return "yes" if support is True else f"({sentences.index(support) + 1})"


def _sentences(pipelines: Mapping[str, Row]) -> Iterator[str]:
    for name in NAMES:
        yield from (str(row[name]) for row in pipelines.values() if row[name] is not True)


def _modules() -> Iterator[tuple[str, str]]:
    for root in engines.__path__:
        for path in sorted(Path(root).glob("*/*features.py")):
            yield path.parent.name, path.stem


if __name__ == "__main__":
    write(NAME, render())
