"""The first command on a fresh machine says what is missing and what to do, and does nothing twice."""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from scripts import bootstrap

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, whose installs are only noted down in the list `done`."""
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos" / "a.proto").write_text("one")
    (tmp_path / ".venv").mkdir()
    for name in ("pyproject.toml", *bootstrap.INSTALL_INPUTS):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / ".venv" / "stamp.json"))
    monkeypatch.setattr(bootstrap, "VENV_PYTHON", sys.executable)
    monkeypatch.setattr(bootstrap, "LOG", str(tmp_path / "install.log"))
    return tmp_path


@pytest.fixture
def done(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bringing the environment up to date really did."""
    calls: list[str] = []
    monkeypatch.setattr(
        bootstrap, "install", lambda level, reuse: calls.append(f"install {level}{' again' if reuse else ''}")
    )
    monkeypatch.setattr(bootstrap, "generate_stubs", lambda: calls.append("stubs"))
    return calls


def test_an_old_python_can_read_it() -> None:
    source = Path(bootstrap.__file__).read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 6))


def test_an_old_python_is_told_which_one_to_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    monkeypatch.setattr(bootstrap, "starts", lambda python: python == "python3.12")
    with pytest.raises(
        bootstrap.Missing, match=r"Python 3\.9 .* is too old: .* 3\.11 or newer; run: make PYTHON=python3\.12"
    ):
        bootstrap.check_python()


def test_an_old_python_alone_is_told_to_install_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setattr(bootstrap, "starts", lambda python: False)
    with pytest.raises(bootstrap.Missing, match="install it and run: make PYTHON="):
        bootstrap.check_python()


def test_a_python_without_venv_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    with pytest.raises(bootstrap.Missing, match=f"'ensurepip'.*sudo apt install {version}"):
        bootstrap.check_venv_module()


def test_a_full_disk_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12, 300_000_000))
    with pytest.raises(bootstrap.Missing, match=r"300 MB are free in .* needs 1500 MB"):
        bootstrap.check_space("dev")


def test_the_second_run_does_nothing(done: list[str]) -> None:
    bootstrap.bring_up_to_date("dev")
    bootstrap.bring_up_to_date("dev")
    bootstrap.bring_up_to_date("runtime")
    assert done == ["install dev"]


def test_tests_after_a_demo_add_the_development_tools(done: list[str]) -> None:
    bootstrap.bring_up_to_date("runtime")
    bootstrap.bring_up_to_date("dev")
    assert done == ["install runtime", "install dev again"]


def test_a_changed_proto_only_means_new_stubs(done: list[str], checkout: Path) -> None:
    bootstrap.bring_up_to_date("dev")
    (checkout / "protos" / "a.proto").write_text("two")
    bootstrap.bring_up_to_date("runtime")
    assert done == ["install dev", "stubs"]


def test_changed_dependencies_mean_a_new_install(done: list[str], checkout: Path) -> None:
    bootstrap.bring_up_to_date("dev")
    (checkout / "constraints.txt").write_text("a==1")
    bootstrap.bring_up_to_date("stubs")
    assert done == ["install dev", "install dev again"]


@pytest.mark.parametrize(
    ("line", "installs"), [("[project]\ndependencies = ['a']", 2), ("[tool.ruff]\nline-length = 1", 1)]
)
def test_only_what_is_said_about_the_package_counts(done: list[str], checkout: Path, line: str, installs: int) -> None:
    bootstrap.bring_up_to_date("dev")
    (checkout / "pyproject.toml").write_text(line)
    bootstrap.bring_up_to_date("dev")
    assert len(done) == installs


def test_another_python_means_a_new_environment(done: list[str], checkout: Path) -> None:
    bootstrap.bring_up_to_date("dev")
    stamp = json.loads(Path(bootstrap.STAMP).read_text(encoding="utf-8"))
    Path(bootstrap.STAMP).write_text(json.dumps({**stamp, "python": "3.11.0"}), encoding="utf-8")
    bootstrap.bring_up_to_date("dev")
    assert done == ["install dev", "install dev"]


def test_an_environment_whose_python_is_gone_is_made_again(done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    bootstrap.bring_up_to_date("dev")
    monkeypatch.setattr(bootstrap, "VENV_PYTHON", "/nonexistent/python")
    bootstrap.bring_up_to_date("dev")
    assert done == ["install dev", "install dev"]


@pytest.mark.usefixtures("checkout")
def test_a_failed_command_shows_its_output_and_a_remedy() -> None:
    with pytest.raises(bootstrap.Missing, match=r"(?s)no such host.*Installing failed.*check the network"):
        bootstrap.run([sys.executable, "-c", "import sys; sys.exit('no such host')"], "Installing")
