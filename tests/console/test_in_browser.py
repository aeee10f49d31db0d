"""The page in a real browser on a real system. `make test-console` runs this."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Response, Route, expect

from atelier_client import Lora
from gateway.openapi import document
from tests.console.browser import chromium, sign_in_address, signed_in
from tests.support.system import UpProcess, up_process

SECONDS = 1000
PATIENCE = 30 * SECONDS
# Once a code or a field is refused, the browser itself reports the answer's status.
REPORTED = "Failed to load resource"


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    with up_process(tmp_path_factory.mktemp("console"), "--set", "sketch.step_delay=60ms") as process:
        process.wait_for_workers()
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, up: UpProcess) -> Iterator[Page]:
    """A signed-in page; any complaint of the browser, such as one of the content policy, fails the test."""
    complaints: list[str] = []
    with signed_in(browser, up) as page:
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
    assert [text for text in complaints if REPORTED not in text] == []


def ask(page: Page, prompt: str, **values: str) -> None:
    page.fill("#prompt", prompt)
    for name, value in values.items():
        page.fill(f"#request [name={name}]", value)
    page.press("#prompt", "Control+Enter")


def test_the_code_is_taken_out_of_the_address_and_works_once(browser: Browser, up: UpProcess) -> None:
    address = sign_in_address(up)
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector("body[data-signed-in]")
    assert page.url == f"{up.url}/"
    assert page.evaluate("[localStorage.length, document.cookie, location.hash]") == [0, "", ""]
    key = page.evaluate("sessionStorage.getItem('atelier.key')")
    assert key.startswith("atl_") and key != up.key
    page.reload()
    page.wait_for_selector("body[data-signed-in]")
    other = context.new_page()
    other.goto(address)
    expect(other.locator("#why")).to_contain_text("has been used")
    assert "code" not in other.url
    other.fill("#key", up.key)
    other.press("#key", "Enter")
    other.wait_for_selector("body[data-signed-in]")
    context.close()


def test_a_picture_grows_and_is_saved(page: Page) -> None:
    page.check("[name=enhance_prompt]")
    ask(page, "a heron in the reeds", quantity="2", seed="5")
    job = page.locator("atelier-job").first
    expect(job.locator(".written")).to_contain_text("a heron in the reeds", timeout=PATIENCE)
    growing = job.locator(".canvas img").first
    expect(growing).to_have_attribute("src", re.compile("^data:image/"), timeout=PATIENCE)
    assert 0 < job.locator("progress").first.evaluate("bar => bar.value") < 1
    expect(job.locator(".state")).to_have_text("Done, 2 of 2 delivered", timeout=PATIENCE)
    expect(job.locator(".canvas .open img")).to_have_count(2)
    tiles = page.locator("#workspace .tile")
    expect(tiles.first).to_contain_text("a heron in the reeds")
    tiles.first.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#library .tile")).to_have_count(1)
    expect(tiles.first.get_by_role("button", name="Saved")).to_be_disabled()
    for image in page.locator("#workspace img").all():
        image.scroll_into_view_if_needed()
        expect(image).to_have_js_property("complete", True)
        assert image.evaluate("image => image.naturalWidth") > 0


def test_large_view_make_again_and_discard(page: Page) -> None:
    page.check("[name=enhance_prompt]")
    ask(page, "a red bicycle", quantity="1", seed="9")
    tile = page.locator("#workspace .tile", has_text="a red bicycle")
    tile.locator(".open").click(timeout=PATIENCE)
    viewer = page.locator("#viewer")
    expect(viewer.locator("dl")).to_contain_text("sdxl")
    expect(viewer.locator("dl")).to_contain_text("sketch, sketch/words v1")
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    expect(tile.locator(".open")).to_be_focused()
    tile.locator(".open").click()
    viewer.get_by_role("button", name="Make again").click()
    expect(page.locator("[name=seed]")).to_have_value("9")
    expect(page.locator("#prompt")).to_have_value("a red bicycle")
    expect(page.locator("[name=enhance_prompt]")).to_be_checked()
    expect(page.locator("#prompt")).to_be_focused()
    expect(page.locator("#kept")).to_contain_text("As before: ")
    page.get_by_role("button", name="Leave out").click()
    expect(page.locator("#kept")).to_be_empty()
    tile.locator(".open").click()
    viewer.get_by_role("button", name="Discard").click()
    viewer.get_by_role("button", name="Discard it?").click()
    expect(tile).to_have_count(0)


def test_make_again_asks_for_what_was_made_also_what_the_form_does_not_ask(page: Page, up: UpProcess) -> None:
    with up.client() as client:
        settings: dict[str, Any] = {
            "width": 320,
            "height": 256,
            "steps": 3,
            "guidance": 0.0,
            "scheduler": "euler",
            "loras": [Lora("ink", 0.5)],
        }
        client.generate(
            "a green door",
            model="sdxl",
            format="image",
            seed=4,
            enhance_prompt=True,
            on_enhancement_failure="warn",
            timeout=60,
            **settings,
        )
    page.locator("#workspace .tile", has_text="a green door").locator(".open").click(timeout=PATIENCE)
    page.locator("#viewer").get_by_role("button", name="Make again").click()
    expect(page.locator("#kept")).to_contain_text("As before: 320×256, 3 steps, guidance 0, euler, 1 LoRA.")
    with page.expect_request("**/v1/generate-content") as sent:
        page.get_by_role("button", name="Make it").click()
    asked = sent.value.post_data_json
    assert {name: asked.get(name) for name in (*settings, "prompt", "seed", "enhance_prompt", "quantity")} == {
        **settings,
        "loras": [{"name": "ink", "weight": 0.5}],
        **{"prompt": "a green door", "seed": 4, "enhance_prompt": True, "quantity": 1},
    }
    assert asked["on_enhancement_failure"] == "warn"
    page.get_by_text("Video", exact=True).click()
    expect(page.locator("#kept")).to_be_empty()


def test_a_refusal_is_seen_over_the_large_view(page: Page) -> None:
    ask(page, "a kettle", quantity="1")
    tile = page.locator("#workspace .tile", has_text="a kettle")
    tile.locator(".open").click(timeout=PATIENCE)
    page.route("**/v1/assets/*", lambda route: route.abort() if route.request.method == "DELETE" else route.continue_())
    viewer = page.locator("#viewer")
    viewer.get_by_role("button", name="Discard").click()
    viewer.get_by_role("button", name="Discard it?").click()
    told = page.locator("#announcer")
    expect(told).to_have_text("The server cannot be reached.")
    # Nothing lies over it, not even what is behind a dialog.
    seen = "line => document.elementFromPoint(line.offsetLeft, innerHeight - 30) === line"
    assert told.evaluate(seen)
    expect(viewer).to_be_visible()
    page.keyboard.press("Escape")
    tile.locator(".open").click()
    expect(viewer).to_be_visible()
    expect(told).to_have_count(1)


def test_what_is_in_the_trash_is_put_back(page: Page) -> None:
    ask(page, "a teapot", quantity="1")
    page.locator("#workspace .tile", has_text="a teapot").get_by_role("button", name="Save").click(timeout=PATIENCE)
    item, viewer = page.locator("#library .tile", has_text="a teapot"), page.locator("#viewer")
    item.locator(".open").click()
    viewer.get_by_role("button", name="Move to trash").click()
    expect(item).to_have_count(0)
    page.select_option("#kinds", "trash")
    item.locator(".open").click()
    expect(viewer.locator("dl")).to_contain_text("in the trash")
    viewer.get_by_role("button", name="Put back").click()
    expect(item).to_have_count(0)
    page.select_option("#kinds", "")
    expect(item).to_have_count(1)


def test_who_works_with_the_keyboard_keeps_their_place(page: Page) -> None:
    for prompt in ("an oak", "a birch"):
        ask(page, prompt, quantity="1")
        page.locator("#workspace .tile", has_text=prompt).wait_for(timeout=PATIENCE)
    oak = page.locator("#workspace .tile", has_text="an oak")
    oak.get_by_role("button", name="Save").focus()
    page.keyboard.press("Enter")
    expect(oak.get_by_role("button", name="Saved")).to_be_visible()
    expect(oak.locator(".open")).to_be_focused()
    page.locator("#request").evaluate("form => { form.elements.prompt.value = 'an elm'; form.requestSubmit() }")
    page.locator("#workspace .tile", has_text="an elm").wait_for(timeout=PATIENCE)
    expect(oak.locator(".open")).to_be_focused()


def test_a_picture_of_ones_own_is_started_from(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "house plan.png"
    Image.new("RGB", (64, 48), (40, 90, 160)).save(file)
    page.set_input_files("[name=reference_images]", file)
    page.select_option("#kind", "init")
    asked = []
    for prompt in ("a house", "the same house at night"):
        with page.expect_request("**/v1/generate-content") as sent:
            ask(page, prompt, quantity="1")
        asked.append(sent.value.post_data_json["reference_images"])
        expect(page.locator("#workspace .tile", has_text=prompt)).to_be_visible(timeout=PATIENCE)
    # It was brought in once.
    assert asked[0] == asked[1] and [reference["kind"] for reference in asked[0]] == ["init"]
    brought = page.locator("#workspace .tile", has_text="house plan.png")
    expect(brought).to_have_count(1)
    # Who discards it and asks again with the same file brings it in again.
    brought.locator(".open").click()
    page.locator("#viewer").get_by_role("button", name="Discard").click()
    page.locator("#viewer").get_by_role("button", name="Discard it?").click()
    expect(brought).to_have_count(0)
    ask(page, "the same house in snow", quantity="1")
    tile = page.locator("#workspace .tile", has_text="the same house in snow")
    expect(tile).to_be_visible(timeout=PATIENCE)
    tile.locator(".open").click()
    page.locator("#viewer").get_by_role("button", name="Make again").click()
    expect(page.locator("#kept")).to_contain_text("1 reference")
    expect(page.locator("[name=reference_images]")).to_have_value("")
    file.write_bytes(b"no picture")
    page.set_input_files("[name=reference_images]", file)
    ask(page, "a ruin", quantity="1")
    expect(page.locator("#problems")).to_contain_text("png", ignore_case=True)


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_nothing_is_wider_than_the_window(browser: Browser, up: UpProcess, path: str) -> None:
    with signed_in(browser, up, viewport={"width": 360, "height": 800}) as page:
        page.goto(f"{up.url}{path}")
        page.locator("#library .grid" if path == "/" else "main section").first.wait_for(state="attached")
        for width in (360, 390, 820):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_video_is_sought_in(page: Page, up: UpProcess) -> None:
    with up.client() as client:
        made = client.generate("waves", model="wan", format="video", quality="draft", timeout=60)
    url = made.assets[0].url
    answers: list[tuple[int, str]] = []

    def note(response: Response) -> None:
        if response.url == url:
            answers.append((response.status, response.headers.get("content-range", "")))

    page.on("response", note)
    sought = page.evaluate(
        """async (url) => {
            const video = document.createElement("video");
            const told = (name) => new Promise((done, failed) => {
                video.addEventListener(name, done, {once: true});
                video.addEventListener("error", () => failed(video.error.message), {once: true});
            });
            const known = told("loadeddata");
            video.preload = "auto";
            video.src = url;
            document.body.append(video);
            await known;
            const wanted = video.duration / 2, arrived = told("seeked");
            video.currentTime = wanted;
            await arrived;
            return {wanted, at: video.currentTime, width: video.videoWidth};
        }""",
        url,
    )
    assert sought["wanted"] > 0 and sought["width"] > 0
    assert abs(sought["at"] - sought["wanted"]) < 0.1
    size = made.assets[0].media.size_bytes
    assert answers
    assert all(status == 206 and parts.endswith(f"/{size}") for status, parts in answers)


def test_what_is_wrong_is_told_at_the_field(page: Page) -> None:
    ask(page, "", quantity="99")
    expect(page.locator("#problem-prompt")).to_contain_text("is required")
    expect(page.locator("#problem-quantity")).to_contain_text("must be 1..8, got 99")
    expect(page.locator("#prompt")).to_be_focused()
    assert page.get_attribute("[name=quantity]", "aria-describedby") == "problem-quantity"
    ask(page, "a kite", quantity="1", model="video")
    expect(page.locator("#problem-model")).to_be_visible()
    expect(page.locator("#problem-quantity")).to_have_count(0)


def test_text_of_users_is_never_markup(page: Page) -> None:
    prompt = "<img src=x onerror=document.title='owned'> & <b>bold</b>"
    ask(page, prompt, quantity="1", model="some-house-model")
    job = page.locator("atelier-job").first
    expect(job.locator("h2")).to_have_text(prompt)
    # The model that a pattern caught is told as a warning.
    expect(job.locator(".notes li")).to_contain_text("some-house-model")
    expect(page.locator("#workspace figcaption").first).to_contain_text(prompt, timeout=PATIENCE)
    assert page.title() == "Atelier"


def test_a_job_is_cancelled(page: Page) -> None:
    page.check("[name=format][value=video]")
    ask(page, "paper boats in spring rain", quantity="4")
    job = page.locator("atelier-job").first
    job.get_by_role("button", name="Cancel").click()
    expect(job.locator(".state")).to_have_text("Cancelled", timeout=PATIENCE)
    job.get_by_role("button", name="Dismiss").click()
    expect(page.locator("atelier-job")).to_have_count(0)


def test_a_richer_prompt_is_written_and_used(page: Page) -> None:
    page.check("[name=format][value=text]")
    ask(page, "cat on a roof")
    job = page.locator("atelier-job").first
    job.get_by_role("button", name="Use as prompt").click(timeout=PATIENCE)
    text = page.input_value("#prompt")
    assert text == job.locator(".written").text_content()
    assert "cat" in text and len(text) > 60


def test_a_stream_that_breaks_is_resumed_where_it_was(page: Page) -> None:
    asked: list[str | None] = []

    def breaking(route: Route) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        if len(asked) > 1:
            route.continue_()
            return
        # One event, and then the connection ends in the middle of the next.
        with_cursor = 'event: log\nid: where-it-was\ndata: {"cursor":"","log":{"job_id":"","line":""}}\n\nevent: st'
        route.fulfill(status=200, content_type="text/event-stream", body=with_cursor)

    page.route("**/v1/jobs/*/events", breaking)
    ask(page, "a kite over dunes", quantity="1")
    job = page.locator("atelier-job").first
    expect(job.locator(".state")).to_have_text("Done, 1 of 1 delivered", timeout=PATIENCE)
    assert asked[:2] == [None, "where-it-was"]


def test_a_job_that_ended_and_was_deleted_unheard_is_not_shown_as_running(browser: Browser, up: UpProcess) -> None:
    job = {"job_id": "gone", "prompt": "a ghost", "state": "running", "version": 1, "requested": 1, "delivered": 0}
    job |= {"stages": [], "outputs": [], "warnings": []}
    asked: list[Route] = []

    def tell(route: Route, *jobs: dict[str, Any]) -> None:
        body = f"event: jobs.snapshot\nid: c{len(asked)}\ndata: {json.dumps({'snapshot': {'jobs': jobs}})}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    def watching(route: Route) -> None:
        asked.append(route)
        if len(asked) == 1:
            tell(route, job)
        elif len(asked) > 2:
            route.continue_()

    with signed_in(browser, up) as page:
        page.route("**/v1/jobs/gone/events", lambda route: route.fulfill(status=204))
        page.route("**/v1/events", watching)
        page.reload()
        ghost = page.locator("atelier-job").filter(has_text="a ghost")
        expect(ghost).to_have_count(1)
        while len(asked) < 2:
            page.wait_for_timeout(50)
        # Its cursor is too old, so it is answered by a snapshot, without the job.
        tell(asked[1])
        expect(ghost).to_have_count(0)


def test_why_a_job_waits_is_told(page: Page) -> None:
    def waiting(route: Route) -> None:
        answer = route.fetch()
        job = json.loads(answer.text())
        job["job"]["stages"][0]["waits_for"] = "no worker of type sdxl is connected"
        job["job"] |= {"state": "queued", "version": 1000}
        route.fulfill(response=answer, body=json.dumps(job))

    page.route(re.compile(r"/v1/jobs/[^/]+$"), waiting)
    ask(page, "a quiet harbour", quantity="1")
    expect(page.locator("atelier-job .waits").first).to_have_text("no worker of type sdxl is connected")


def test_the_page_of_the_api_shows_every_operation(browser: Browser, up: UpProcess) -> None:
    page = browser.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"{up.url}/docs#CreateUpload")
    for methods in document()["paths"].values():
        for operation in methods.values():
            expect(page.locator(f"section#{operation['operationId']}")).to_be_attached()
    expect(page.locator("section#CreateUpload h3")).to_be_in_viewport()
    page.fill("#find", "watch")
    assert all("watch" in text.lower() for text in page.locator("#contents li:visible").all_inner_texts())
    assert problems == []
    page.close()
