"""Breaks the code on purpose and expects the tests to notice: `python -m scripts.mutants [name ...]`.

A mutant is one rule taken out of the code. The tables in `tests/mutants/*.toml` name them:

    [[mutant]]
    name = "storage-lost-fence"                       # unique over all tables
    file = "router_service/storage/jobs.py"
    find = "jobs.c.fence == before.fence,"            # occurs exactly once in the file
    replace = ""
    tests = ["tests/storage/test_jobs.py::test_x"]    # what must fail
    guards = "Every state change repeats the expected state, stage and fence in its WHERE."

The work tree is copied; in the copy the named tests must pass as the code is, and must fail with the mutant. Failing
means that a test ran and failed: a module that cannot be imported, a fixture that raises, a test that hangs or a run
that was skipped prove nothing. A name may be a table's (`storage`), a mutant's, or the beginning of mutants' names.
"""

from __future__ import annotations

import argparse
import compileall
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "tests" / "mutants"
IMPORT_FOLDERS = (".", "workers", "client", "cli", "console")
LIMIT_S = 400
_FIELDS = {"name", "file", "find", "replace", "tests", "guards"}
_FAILED = re.compile(r"^FAILED (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One rule taken out: in `file`, `find` becomes `replace`; then one of `tests` fails. `guards` is the rule."""

    table: str
    name: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]
    guards: str

    def problem(self, root: Path = ROOT) -> str:
        """Return why this mutant cannot be made of a tree; empty when it can."""
        path = root / self.file
        if not path.is_file():
            return f"there is no file {self.file}"
        text = path.read_text()
        count = text.count(self.find)
        if count != 1:
            return f"its text occurs {count} times in {self.file}, and must occur once"
        if self.replace == self.find:
            return "it changes nothing"
        if path.suffix == ".py":
            try:
                compile(text.replace(self.find, self.replace), self.file, "exec", dont_inherit=True)
            except SyntaxError as error:
                return f"the changed {self.file} is no Python: {error}"
        return ""


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; `note` names the test that failed, or says why it was not killed."""

    killed: bool
    note: str
    seconds: float


def load(folder: Path = TABLES) -> list[Mutant]:
    """Return the mutants of all tables, in order.

    Raises:
        ValueError: a table has a mutant that lacks a field, or has one that is not known.
    """
    mutants = []
    for path in sorted(folder.glob("*.toml")):
        for row in tomllib.loads(path.read_text()).get("mutant", []):
            if set(row) != _FIELDS:
                wrong = ", ".join(sorted(set(row) ^ _FIELDS))
                raise ValueError(f"{path.name}: a mutant needs the fields {sorted(_FIELDS)}; check {wrong}: {row}")
            mutants.append(Mutant(table=path.stem, **{**row, "tests": tuple(row["tests"])}))
    return mutants


def choose(mutants: Sequence[Mutant], names: Sequence[str]) -> list[Mutant]:
    """Return the mutants that are named; all when nothing is named. Raises LookupError for a name of none."""
    unknown = [name for name in names if not any(_is_named(mutant, name) for mutant in mutants)]
    if unknown:
        raise LookupError(f"there is no table and no mutant named {', '.join(unknown)}")
    return [mutant for mutant in mutants if not names or any(_is_named(mutant, name) for name in names)]


def _is_named(mutant: Mutant, name: str) -> bool:
    return name == mutant.table or mutant.name.startswith(name)


class Tree:
    """A copy of the work tree, whose code is what its tests import."""

    def __init__(self, root: Path) -> None:
        """Copy what git knows or would add into the folder `root`, which is empty."""
        self.root = root
        for name in _tracked_and_new():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
        # By content, not by time: a mutant is written and undone within the second that a time resolves.
        compileall.compile_dir(root, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)

    def check_imports(self, files: Sequence[str]) -> None:
        """Prove that Python finds these files here, not in the work tree. Raises RuntimeError when it does not."""
        modules = {_module(name): name for name in files if name.endswith(".py")}
        code = "import importlib.util, sys\nfor name in sys.argv[1:]: print(importlib.util.find_spec(name).origin)"
        done = subprocess.run(
            [sys.executable, "-c", code, *modules],
            cwd=self.root,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        for origin, name in zip(done.stdout.splitlines(), modules.values(), strict=True):
            if Path(origin).resolve() != (self.root / name).resolve():
                raise RuntimeError(f"the copy's tests would import {origin} instead of its own {name}")

    def test(self, tests: Sequence[str]) -> tuple[int, str]:
        """Run tests. Returns pytest's exit code, -1 when it took too long, and what it printed."""
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-rfE", "--tb=short", "-p", "no:cacheprovider", *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=self._environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -1, f"the tests did not end within {LIMIT_S} s"
        return done.returncode, done.stdout

    def _environment(self) -> Mapping[str, str]:
        folders = [str(self.root / folder) for folder in IMPORT_FOLDERS]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return {**inherited, "PYTHONPATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """Apply a mutant for the time of the block."""
        path = self.root / mutant.file
        text = path.read_text()
        path.write_text(text.replace(mutant.find, mutant.replace))
        try:
            yield
        finally:
            path.write_text(text)

    def undefined_names(self, mutant: Mutant) -> str:
        """Return what ruff says of names that the changed file uses and does not have; empty when it has all."""
        done = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821", mutant.file],
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode else ""


def try_mutant(tree: Tree, mutant: Mutant) -> Verdict:
    """Apply one mutant and run its tests."""
    began = time.monotonic()

    def verdict(killed: bool, note: str) -> Verdict:
        return Verdict(killed, note, time.monotonic() - began)

    problem = mutant.problem(tree.root)
    if problem:
        return verdict(False, problem)
    with tree.broken(mutant):
        if mutant.file.endswith(".py") and (undefined := tree.undefined_names(mutant)):
            return verdict(False, f"it breaks the code, not the rule: {_last_line(undefined)}")
        code, output = tree.test(mutant.tests)
    if code == 0:
        return verdict(False, "SURVIVED: its tests pass")
    failed = _FAILED.findall(output)
    if code != 1 or not failed:
        return verdict(False, f"no test ran and failed (exit code {code}): {_last_line(output)}")
    return verdict(True, failed[0])


def _baseline(tree: Tree, mutants: Sequence[Mutant]) -> str:
    """Run every named test on the code as it is. Returns what went wrong; empty when all pass."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    code, output = tree.test(tests)
    if code:
        return f"the tests do not pass on the code as it is (exit code {code}):\n{output[-3000:]}"
    if not re.search(r"\d+ passed", output):
        return f"no test ran on the code as it is: {_last_line(output)}"
    return ""


def _run(mutants: Sequence[Mutant], *, jobs: int, folder: Path) -> list[Verdict]:
    trees: SimpleQueue[Tree] = SimpleQueue()
    for number in range(jobs):
        trees.put(Tree(folder / str(number)))
    first = trees.get()
    first.check_imports(sorted({mutant.file for mutant in mutants}))
    if problem := _baseline(first, mutants):
        raise RuntimeError(problem)
    trees.put(first)

    def one(mutant: Mutant) -> Verdict:
        tree = trees.get()
        try:
            verdict = try_mutant(tree, mutant)
        finally:
            trees.put(tree)
        mark = "killed  " if verdict.killed else "NOT KILLED"
        print(f"{mark}  {mutant.table}/{mutant.name}  {verdict.seconds:.0f} s  {verdict.note}", flush=True)
        return verdict

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, mutants))


def main() -> int:
    """Try the mutants that the command line names. Returns 0 when every one was killed."""
    parser = argparse.ArgumentParser(prog="python -m scripts.mutants", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="tables, mutants, or how mutants' names begin; all without one")
    parser.add_argument("--jobs", type=int, default=1, help="how many to try at once, each in a copy of its own")
    parser.add_argument("--list", action="store_true", help="print the mutants and the rules that they take out")
    options = parser.parse_args()
    mutants = choose(load(), options.names)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.table}/{mutant.name}  {mutant.file}\n    {mutant.guards}")
        return 0
    with tempfile.TemporaryDirectory(prefix="atelier-mutants-") as folder:
        # Tests start programs as another user, which must be able to enter the folder.
        Path(folder).chmod(0o755)
        try:
            verdicts = _run(mutants, jobs=options.jobs, folder=Path(folder))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 2
    alive = [mutant for mutant, verdict in zip(mutants, verdicts, strict=True) if not verdict.killed]
    print(f"{len(mutants) - len(alive)} of {len(mutants)} mutants killed")
    for mutant in alive:
        print(f"not killed: {mutant.table}/{mutant.name}: {mutant.guards}")
    return 1 if alive else 0


def _tracked_and_new() -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def _module(file: str) -> str:
    path = Path(file)
    folder = next((folder for folder in IMPORT_FOLDERS[1:] if path.parts[0] == folder), ".")
    return ".".join(path.relative_to(folder).with_suffix("").parts).removesuffix(".__init__")


def _last_line(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
