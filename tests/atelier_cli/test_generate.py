"""Making things from the command line, on the real system."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from atelier_cli.progress import Bars
from atelier_client import Atelier, JobEvent
from atelier_client.events import Progress
from tests.atelier_cli.conftest import Run
from tests.atelier_client.scripted import ScriptedApi, event, reply_json, stream

SMALL = ("--quality", "draft", "--steps", "2")


def test_pictures_are_made_saved_and_downloaded(atelier: Run, tmp_path: Path) -> None:
    words = ("--quantity", "2", "--seed", "0", "--aspect", "16:9", "--negative", "text", *SMALL)
    done = atelier("generate", "a red fox", *words, "--save", "--out", str(tmp_path / "new"), "--json")
    assert (done.code, done.err) == (0, "")
    made = done.json
    assert (made["job"]["state"], made["job"]["delivered"]) == ("succeeded", 2)
    assert made["job"]["negative_prompt"] == "text"
    settings = made["job"]["generation_settings"]
    assert (settings["seed"], settings["steps"], settings["aspect_ratio"]) == (0, 2, "16:9")
    assert [asset["provenance"]["seed"] for asset in made["assets"]] == [0, 1]
    assert [result["asset_id"] for result in made["results"]] == [asset["asset_id"] for asset in made["assets"]]
    for path in made["files"]:
        with Image.open(path) as picture:
            assert picture.size == (settings["width"], settings["height"])
    item_id = made["results"][0]["item"]["item_id"]
    assert atelier("library", "show", item_id, "--json").json["item"]["provenance"]["prompt"] == "a red fox"


def test_what_steers_a_generation_comes_back_with_it_and_what_is_unknown_is_told(atelier: Run, tmp_path: Path) -> None:
    words = ("--guidance", "7.5", "--scheduler", "euler", "--lora", "ink", "--lora", "grain:-0.5", *SMALL)
    made = atelier("generate", "a red fox", *words, "--out", str(tmp_path), "--save", "--json").json
    settings = made["job"]["generation_settings"]
    loras = [{"name": "ink", "weight": 1}, {"name": "grain", "weight": -0.5}]
    assert (settings["guidance"], settings["scheduler"], settings["loras"]) == (7.5, "euler", loras)
    warnings = " ".join(warning["message"] for warning in made["job"]["warnings"])
    assert all(f"The sketch engine knows no {what}" in warnings for what in ("guidance", "schedulers", "LoRAs"))
    item_id, path = made["results"][0]["item"]["item_id"], made["files"][0]
    for thing in (item_id, path):
        request = atelier("again", thing).json
        assert (request["guidance"], request["scheduler"], request["loras"]) == (7.5, "euler", loras)
    again = atelier("again", path, "--submit", "--json").json["generation_settings"]
    assert (again["guidance"], again["scheduler"], again["loras"]) == (7.5, "euler", loras)
    assert atelier("generate", "a red fox", "--lora", "ink:much").code == 2


def test_what_is_made_of_an_enhanced_prompt_keeps_both_and_what_wrote_it(atelier: Run, tmp_path: Path) -> None:
    words = ("--enhance", "--seed", "5", *SMALL, "--out", str(tmp_path), "--save", "--json")
    made = atelier("generate", "a red fox", *words).json
    job, item_id, path = made["job"], made["results"][0]["item"]["item_id"], made["files"][0]
    assert job["enhanced_prompt"].startswith("a red fox") and job["enhanced_prompt"] != job["prompt"]
    by = {"engine": "sketch", "template": "sketch/words", "template_version": "v1"}
    kept = atelier("library", "show", item_id, "--json").json["item"]["provenance"]
    for said in (job, made["assets"][0]["provenance"], kept):
        assert (said["prompt"], said["enhanced_prompt"]) == ("a red fox", job["enhanced_prompt"])
        assert {name: part for name, part in said["enhanced_by"].items() if part} == by
    shown = (("jobs", job["job_id"]), ("library", item_id), ("workspace", made["assets"][0]["asset_id"]))
    for group, thing in shown:
        assert "sketch, sketch/words v1" in atelier(group, "show", thing).out
    for thing in (item_id, path):
        asked, exact = atelier("again", thing).json, atelier("again", thing, "--as-enhanced").json
        assert (asked["prompt"], asked["enhance_prompt"]) == ("a red fox", True)
        assert (exact["prompt"], exact.get("enhance_prompt", False)) == (job["enhanced_prompt"], False)
    again = atelier("again", path, "--submit", "--json").json["job_id"]
    atelier("jobs", "watch", again)
    second = atelier("jobs", "show", again, "--json").json["job"]
    assert (second["prompt"], second["enhanced_prompt"]) == ("a red fox", job["enhanced_prompt"])


def test_people_read_lines(atelier: Run, tmp_path: Path) -> None:
    done = atelier("generate", "a red fox", *SMALL, "--save", "--out", str(tmp_path))
    assert done.code == 0
    (path,) = tmp_path.iterdir()
    assert done.out.endswith(f"  {path}\n")
    assert "succeeded" in done.err
    assert "saved " in done.err


def test_no_wait_prints_the_id_at_once(atelier: Run) -> None:
    job_id = atelier("generate", "a red fox", *SMALL, "--no-wait").out.strip()
    assert atelier("jobs", "watch", job_id).code == 0
    reply = atelier("generate", "a red fox", *SMALL, "--no-wait", "--json").json
    assert set(reply) >= {"job_id", "state", "generation_settings", "asset_ids", "warnings"}


def test_references_are_uploaded_and_used(atelier: Run, tmp_path: Path) -> None:
    for name in ("init", "mask", "style"):
        Image.new("RGB", (64, 64), "teal").save(tmp_path / f"{name}: a.png")
    words = ["--init", str(tmp_path / "init: a.png"), "--mask", str(tmp_path / "mask: a.png")]
    words += [
        "--reference",
        f"{tmp_path / 'style: a.png'}:composition:0.25",
        "--reference",
        str(tmp_path / "style: a.png"),
    ]
    job = atelier("generate", "a red fox", *SMALL, *words, "--json").json["job"]
    assert [(r["kind"], r.get("strength")) for r in job["reference_images"]][:2] == [
        ("composition", 0.25),
        ("style", 0.5),
    ]
    assert [r["kind"] for r in job["reference_images"]] == ["composition", "style", "init", "mask"]
    upload = atelier("workspace", "show", job["reference_images"][2]["asset_id"], "--json").json["asset"]
    assert (upload["source"], upload["filename"]) == ("upload", "init: a.png")


def test_enhance_streams_the_text_as_it_is_written(atelier: Run) -> None:
    done = atelier("enhance", "a red fox in snow")
    assert done.code == 0
    assert len(done.out.split()) >= 15
    assert "fox" in done.out
    (job,) = atelier("jobs", "list", "--limit", "1", "--json").json["jobs"]
    assert done.out == job["enhanced_prompt"] + "\n"


def test_enhance_completes_what_was_missed_on_the_way(run: Run, api: ScriptedApi) -> None:
    done_job = {"job_id": "j1", "state": "succeeded", "enhanced_prompt": "one two three"}
    api.script(
        reply_json({"job_id": "j1"}),
        stream(
            event("text_delta", {"offset": 0, "text": "one"}),
            event("text_delta", {"offset": 7, "text": " three"}),
            event("state", done_job, "c"),
        ),
    )
    assert run("enhance", "x", "--url", api.url).out == "one two three\n"


def test_an_enhanced_job_shows_both_prompts(atelier: Run) -> None:
    job = atelier("generate", "a red fox", "--enhance", *SMALL, "--json").json["job"]
    assert job["prompt"] == "a red fox"
    assert len(job["enhanced_prompt"]) > len("a red fox")
    assert [stage["kind"] for stage in job["stages"]] == ["enhance", "generate"]
    shown = atelier("jobs", "show", job["job_id"]).out
    assert f"enhanced   {job['enhanced_prompt']}" in shown


def test_what_was_not_saved_is_told(run: Run, api: ScriptedApi) -> None:
    results = [{"asset_id": "a0", "failure": {"reason": "not_found", "message": "It is gone."}}]
    api.script(
        reply_json({"job_id": "j1"}),
        stream(event("state", {"job_id": "j1", "state": "succeeded"}, "c")),
        reply_json({"assets": [{"asset_id": "a0"}]}),
        reply_json({"results": results}),
    )
    done = run("generate", "x", "--save", "--url", api.url)
    assert done.code == 1
    assert "not saved: a0: It is gone." in done.err


def test_ctrl_c_says_how_to_come_back(run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> list[JobEvent]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Atelier, "watch", interrupted)
    api.script(reply_json({"job_id": "j1"}))
    done = run("generate", "x", "--url", api.url)
    assert done.code == 130
    assert "atelier jobs watch j1" in done.err
    assert "atelier jobs cancel j1" in done.err


def test_bars_follow_each_output(capsys: pytest.CaptureFixture[str]) -> None:
    bars = Bars(2)
    with bars:
        bars.show(JobEvent("progress", progress=Progress(stage="generate", asset_index=1, step=3, steps=8)))
    assert "output 2 of 2" in capsys.readouterr().err
    (task,) = bars._progress.tasks
    assert (task.completed, task.total) == (3, 8)


def test_watch_prints_one_json_line_per_event(atelier: Run) -> None:
    job_id = atelier("generate", "a red fox", *SMALL, "--no-wait").out.strip()
    done = atelier("jobs", "watch", job_id, "--json")
    events = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0
    assert events[-1]["state"]["state"] == "succeeded"
    again = atelier("jobs", "watch", job_id, "--after", events[-1]["cursor"])
    assert (again.code, again.out) == (0, "")
