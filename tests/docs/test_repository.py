"""What holds for every page and every file: links lead somewhere, settings exist, old names are gone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from service_kit.settings import SETTINGS
from service_kit.settings_table import SECTIONS
from tests.docs.blocks import ROOT, blocks, pages

LINK = re.compile(r"\]\(([^)\s]+)\)")
SETTING = re.compile(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)(?:=[^`]*)?`")
VARIABLE = re.compile(r"\bATELIER_[A-Z_]+\b")
# Put together here, so that this file does not name them itself.
# What reads the tables of before, and says so.
READS_OLD_TABLES = (
    "cli/atelier_cli/importing/",
    "service_kit/descriptions/",
    "tests/moving_in/",
    "tests/support/galleries/",
    "docs/moving-in.md",
    "docs/adr/0037-moving-in.md",
)
PLACE = re.compile(r"`(\w[\w.-]*/[\w./-]+\.(?:py|toml|proto|js|html|md|jsonl))(?::([\w.]+))?`")
OLD_NAMES = ["-".join(("queue", "job")), "-".join(("enhance", "prompt")), "_".join(("workspace", "items"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    text = page.read_text("utf-8")
    for block in blocks(page):
        text = text.replace(block.text, "")
    return text


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT), f"{page.name} links out of the repository: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_names_in_them_exist(page: Path) -> None:
    for path, name in PLACE.findall(prose(page)):
        if not (ROOT / path.split("/")[0]).is_dir():
            # A file of every service, such as storage/tables.py.
            continue
        assert (ROOT / path).is_file(), f"{page.name} names {path}"
        last = name.rpartition(".")[2]
        text = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^\s*(?:(?:async )?def|class) {last}\b|^{last}\b", text, re.MULTILINE), (
            f"{path} has no {name}"
        )


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_that_are_named_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    known = {setting.name for setting in SETTINGS}
    # Files and modules are named alike: `router.sqlite3`, `gateway.key`.
    files = {"router.key", "gateway.key", "library.key", "worker.key", "worker.toml", "asset.proto"}
    assert set(SETTING.findall(text)) - files <= known
    variables = {setting.env for setting in SETTINGS} | {f"{row.env}_FILE" for row in SETTINGS if row.secret}
    assert set(VARIABLE.findall(text)) <= variables | {"ATELIER_CONFIG"}


def test_every_page_and_folder_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    linked = {(ROOT / link.partition("#")[0]).resolve() for link in LINK.findall(readme)}
    assert {page for page in pages() if page.parent.name != "adr"} - linked <= {ROOT / "README.md"}
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    folders = {name.split("/")[0] for name in tracked.stdout.decode().split("\0") if "/" in name}
    assert {name for name in folders if not name.startswith(".")} <= set(re.findall(r"^(\w+)/ ", readme, re.MULTILINE))


def test_the_names_of_before_are_nowhere() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no git checkout")
    old = re.compile(rb"(?<![\w-])(?:" + "|".join(OLD_NAMES).encode() + rb")(?![\w-])")
    for name in listed.stdout.decode().split("\0"):
        assert not old.search(name.encode()), name
        path = ROOT / name
        if path.is_file() and not name.startswith(READS_OLD_TABLES):
            assert not old.search(path.read_bytes()), name
