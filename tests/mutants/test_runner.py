"""A mutant is killed by a test that ran and failed, and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.mutants import Mutant, Tree, try_mutant

CODE = "LIMIT = 3\n\n\ndef allowed(number):\n    return number < LIMIT\n"
TESTS = """
import pytest
import code_under_test


@pytest.fixture
def limit():
    return 1 // (code_under_test.LIMIT - 5)


def test_rule():
    assert not code_under_test.allowed(3)


def test_needs_fixture(limit):
    assert limit <= 0


def test_that_sees_nothing():
    assert code_under_test.LIMIT
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Give a tree that is no copy: one module and its tests."""
    (tmp_path / "code_under_test.py").write_text(CODE)
    (tmp_path / "test_code.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tree = Tree.__new__(Tree)
    tree.root = tmp_path
    return tree


@pytest.mark.parametrize(
    ("find", "replace", "test", "killed", "note"),
    [
        ("number < LIMIT", "True", "test_rule", True, "test_code.py::test_rule"),
        ("number < LIMIT", "True", "test_that_sees_nothing", False, "SURVIVED"),
        ("LIMIT = 3", "LIMIT = 5", "test_needs_fixture", False, "no test ran and failed"),
        ("LIMIT = 3", "LIMIT = [][0]", "test_rule", False, "no test ran and failed"),
        ("number < LIMIT", "number < NOWHERE", "test_rule", False, "breaks the code"),
    ],
)
def test_only_a_test_that_ran_and_failed_kills_a_mutant(
    tree: Tree, find: str, replace: str, test: str, killed: bool, note: str
) -> None:
    mutant = Mutant("table", "name", "code_under_test.py", find, replace, (f"test_code.py::{test}",), "A rule.")
    verdict = try_mutant(tree, mutant)
    assert verdict.killed is killed
    assert note in verdict.note
    assert (tree.root / "code_under_test.py").read_text() == CODE, "the code is whole again"


def test_code_from_elsewhere_is_noticed(tree: Tree) -> None:
    tree.check_imports(["code_under_test.py"])
    (tree.root / "shadow").mkdir()
    (tree.root / "shadow" / "json.py").write_text("")
    with pytest.raises(RuntimeError, match="would import"):
        tree.check_imports(["json.py"])
