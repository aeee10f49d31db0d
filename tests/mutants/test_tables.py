"""The tables of mutants keep up with the code: every mutant can be made, and the tests that it names are there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from scripts.mutants import ROOT, TABLES, Mutant, choose, load

MUTANTS = load()


def test_there_are_tables() -> None:
    assert {mutant.table for mutant in MUTANTS} == {path.stem for path in TABLES.glob("*.toml")}
    assert MUTANTS


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in MUTANTS]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    assert mutant.problem() == ""
    assert mutant.guards.strip().endswith("."), "guards is the sentence that the mutant takes out"


@pytest.mark.parametrize("named", sorted({test for mutant in MUTANTS for test in mutant.tests}))
def test_a_named_test_exists(named: str) -> None:
    file, _, rest = named.partition("::")
    path = ROOT / file
    assert path.exists()
    if rest:
        body: list[ast.stmt] = ast.parse(path.read_text()).body
        for name in rest.split("[")[0].split("::"):
            found = [node for node in body if getattr(node, "name", "") == name or name in _assigned(node)]
            assert found, f"{file} has no {name}"
            body = getattr(found[0], "body", [])


def test_a_mutant_without_tests_is_refused() -> None:
    assert all(mutant.tests for mutant in MUTANTS)


def test_a_mutant_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\nb = 1\n")

    def problem(find: str, replace: str, file: str = "code.py") -> str:
        return Mutant("table", "name", file, find, replace, ("tests",), "A rule.").problem(tmp_path)

    assert problem("a = 1", "a = 2") == ""
    assert "occurs 2 times" in problem("= 1", "= 2")
    assert "occurs 0 times" in problem("c", "d")
    assert "changes nothing" in problem("a = 1", "a = 1")
    assert "no Python" in problem("a = 1", "a = ")
    assert "no file" in problem("a", "b", "other.py")


def test_names_choose_tables_and_mutants() -> None:
    first = MUTANTS[0]
    assert first in choose(MUTANTS, [first.table])
    assert choose(MUTANTS, [first.name])[0] == first
    assert choose(MUTANTS, []) == MUTANTS
    with pytest.raises(LookupError, match="no-such"):
        choose(MUTANTS, ["no-such"])


def _assigned(node: ast.stmt) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
