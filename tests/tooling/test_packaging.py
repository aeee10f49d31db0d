"""Stubs, descriptors and constraints are complete."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hatch_build
from scripts import googleapis, http_routes

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted(path.relative_to(ROOT / "protos") for path in (ROOT / "protos").rglob("*.proto"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("proto", PROTOS, ids=str)
def test_every_contract_has_typed_stubs(proto: Path) -> None:
    module = importlib.import_module(".".join(proto.with_suffix("").parts) + "_pb2")
    assert module.__file__ is not None
    assert Path(module.__file__).with_suffix(".pyi").exists()
    assert (Path(module.__file__).parents[1] / "py.typed").exists()
    assert module.DESCRIPTOR.name == proto.as_posix()


def test_the_descriptor_set_holds_every_contract_with_its_comments() -> None:
    descriptors = {file.name: file for file in http_routes.installed_descriptors().file}
    assert {proto.as_posix() for proto in PROTOS} <= descriptors.keys()
    assert "google/api/http.proto" in descriptors
    places = descriptors["atelier/router/v1/router_service.proto"].source_code_info.location
    assert sum(bool(place.leading_comments) for place in places) > 10


def test_no_contract_means_no_build(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no \.proto file below .*: build from a complete checkout"):
        hatch_build.generate(tmp_path, tmp_path / "out")


def test_the_google_files_for_buf_are_found_through_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.proto").write_text('import "google/api/annotations.proto";\nimport "google/protobuf/any.proto";\n')
    installed = Path(str(importlib.metadata.distribution("googleapis-common-protos").locate_file("")))
    found = googleapis.imported_files(tmp_path, installed)
    assert found == {"google/api/annotations.proto", "google/api/http.proto"}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_every_dependency_is_constrained_within_its_bounds() -> None:
    pinned = constraints()
    extras = PROJECT["project"]["optional-dependencies"].values()
    for text in [*PROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), text


def test_constraints_are_names_and_versions_only() -> None:
    assert all(
        re.fullmatch(r"[a-z0-9-]+", name) and re.fullmatch(r"[0-9][0-9a-z.]*", v) for name, v in constraints().items()
    )


def test_the_version_stands_in_one_place() -> None:
    from service_kit.version import __version__

    assert importlib.metadata.version("atelier-media") == __version__
