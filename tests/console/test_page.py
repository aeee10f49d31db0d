"""The page's files, read as text: whole, safe under the strict policy, labelled, and true to the contracts."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from atelier.router.v1 import router_service_pb2
from atelier.type.v1 import generation_pb2
from gateway.openapi import document
from gateway.pages import Pages
from gateway.schema import enum_names
from service_kit.validation import limits_of

FILES = {
    entry.name: entry.read_text("utf-8")
    for entry in importlib.resources.files("atelier_console").iterdir()
    if entry.name.endswith((".html", ".css", ".js", ".svg"))
}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
PAGES = {name: text for name, text in FILES.items() if name.endswith(".html")}
REQUEST = router_service_pb2.GenerateContentRequest.DESCRIPTOR.fields_by_name


class Elements(HTMLParser):
    """The elements of a page: name, attributes, and whether they stand within a label."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], bool]] = []
        self._labels = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._labels += tag == "label"
        self.found.append((tag, {name: value or "" for name, value in attrs}, self._labels > 0))

    def handle_endtag(self, tag: str) -> None:
        self._labels -= tag == "label"


def elements(page: str, *names: str) -> Iterator[tuple[dict[str, str], bool]]:
    """Give the attributes of each element with one of these names, and whether it stands within a label."""
    return ((attributes, labelled) for tag, attributes, labelled in Elements(PAGES[page]).found if tag in names)


def options(select: str) -> set[str]:
    """Return the values that a choice of the form offers, but for the empty one."""
    inside = re.search(rf'<select name="{select}">(.*?)</select>', FILES["index.html"], re.DOTALL)
    assert inside is not None
    return set(re.findall(r">([^<>]+)</option>", inside[1])) - {"usual"}


def test_every_file_that_is_asked_for_is_there_and_served() -> None:
    asked = {
        path
        for page in PAGES
        for attributes, _ in elements(page, "link", "script")
        for path in (attributes.get("href") or attributes["src"],)
    }
    asked |= {
        f"/console/{name}" for text in SCRIPTS.values() for name in re.findall(r'(?:from|import) "\./(.+?)"', text)
    }
    pages = Pages("http://127.0.0.1:7400")
    assert "/console/app.js" in asked and "/console/api.js" in asked
    for path in asked:
        assert path.startswith("/console/") and pages.has(path.removeprefix("/console/")), path
    unused = FILES.keys() - {path.rpartition("/")[2] for path in asked} - PAGES.keys()
    assert not unused


@pytest.mark.parametrize("name", sorted(FILES))
def test_nothing_comes_from_elsewhere(name: str) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]+[^\s\"']*", FILES[name]))
    assert addresses <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_no_script_makes_markup_or_code_of_text(name: str) -> None:
    forbidden = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|localStorage"
    )
    assert re.findall(forbidden, SCRIPTS[name]) == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_work_under_the_strict_policy(page: str) -> None:
    for tag, attributes, _ in Elements(PAGES[page]).found:
        assert tag != "style" and "style" not in attributes, "inline styles are refused"
        assert not [name for name in attributes if name.startswith("on")], "inline handlers are refused"
        assert tag != "script" or "src" in attributes, "inline scripts are refused"
        assert attributes.get("target") != "_blank" or "noreferrer" in attributes["rel"]


@pytest.mark.parametrize("page", sorted(PAGES))
def test_pages_can_be_used_without_seeing_them(page: str) -> None:
    found = Elements(PAGES[page]).found
    ids = [attributes["id"] for _, attributes, _ in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert next(attributes for tag, attributes, _ in found if tag == "html")["lang"] == "en"
    assert all(labelled for attributes, labelled in elements(page, "input", "select", "textarea"))
    for _, attributes, _ in found:
        for name in ("aria-labelledby", "aria-describedby", "list"):
            assert attributes.get(name, ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids


def test_there_is_a_place_where_changes_are_told() -> None:
    lives = [attributes for attributes, _ in elements("index.html", "p") if attributes.get("aria-live") == "polite"]
    assert [live["id"] for live in lives] == ["announcer"]


def test_the_form_asks_for_fields_that_the_contract_has() -> None:
    asked = {
        attributes["name"]
        for attributes, _ in elements("index.html", "input", "select", "textarea")
        if "name" in attributes
    }
    assert {"prompt", "model", "format", "quantity", "quality", "aspect_ratio", "seed", "enhance_prompt"} <= asked
    assert asked <= set(REQUEST)
    assert "enhancement_only" in REQUEST and "body.enhance_prompt" in SCRIPTS["form.js"]


def test_the_form_offers_what_the_contract_takes() -> None:
    aspect = limits_of(REQUEST["aspect_ratio"])
    assert aspect is not None and options("aspect_ratio") == set(aspect.one_of)
    assert options("quality") == set(enum_names(generation_pb2.Quality.DESCRIPTOR).values()) - {""}
    [quantity] = [
        attributes for attributes, _ in elements("index.html", "input") if attributes.get("name") == "quantity"
    ]
    limits = limits_of(REQUEST["quantity"])
    assert limits is not None
    assert (int(quantity["min"]), int(quantity["max"])) == (limits.minimum, limits.maximum)


def test_the_scripts_call_only_what_the_api_has() -> None:
    templates = {re.sub(r"\{.+?\}", "*", path) for path in document()["paths"]}
    called = {
        re.sub(r"\$\{.+?\}", "*", path.split("?")[0])
        for text in SCRIPTS.values()
        for path in re.findall(r"[\"`](/(?:v1/|openapi)[^\"`]+)[\"`]", text)
    }
    assert {"/v1/generate-content", "/v1/jobs/*/events", "/v1/events", "/v1/sessions", "/openapi.json"} <= called
    assert called <= templates


def test_the_page_knows_every_event_of_the_merged_stream() -> None:
    answer = document()["paths"]["/v1/events"]["get"]["responses"]["200"]
    names = set(answer["content"]["text/event-stream"]["schema"]["x-event-names"])
    handled = set(re.findall(r'^  "(\w+\.\w+)":', SCRIPTS["app.js"], re.MULTILINE))
    assert handled == {name for name in names if "." in name}


def test_the_page_has_words_for_every_state_and_every_empty_list() -> None:
    schemas = document()["components"]["schemas"]
    for state in schemas["JobState"]["enum"]:
        assert re.search(rf'\b{state}: "', SCRIPTS["job.js"]), state
    for state in schemas["EmptyState"]["enum"]:
        assert not state or f"{state}: " in SCRIPTS["gallery.js"], state


def test_the_code_leaves_the_address_bar_before_it_is_used() -> None:
    assert SCRIPTS["app.js"].index("takeCode()") < SCRIPTS["app.js"].index("await signIn(code)")
    assert "history.replaceState(null" in SCRIPTS["api.js"]
