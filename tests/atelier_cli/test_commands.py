"""Workspace, library, keys, models and the care of the system, from the command line."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
import webbrowser
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from atelier_cli.commands.again import request_of
from atelier_worker.engine import Task
from atelier_worker.engines.files import Mp4Writer, made_with
from tests.atelier_cli.conftest import Run
from tests.atelier_client.scripted import ScriptedApi, reply_json
from tests.support.system import UpProcess

SMALL = ("--quality", "draft", "--steps", "1")


@pytest.fixture
def asset_id(atelier: Run) -> str:
    """An asset that was just made."""
    (asset,) = atelier("generate", "a heron", *SMALL, "--json").json["assets"]
    return str(asset["asset_id"])


def test_workspace(atelier: Run, asset_id: str, tmp_path: Path) -> None:
    shown = atelier("workspace", "show", asset_id, "--json").json["asset"]
    (listed,) = atelier("workspace", "list", "--job", shown["job_id"], "--json").json["assets"]
    assert listed["asset_id"] == asset_id
    assert asset_id in atelier("workspace", "list", "--limit", "1").out
    assert "a heron" in atelier("workspace", "show", asset_id).out
    path = Path(atelier("workspace", "download", asset_id, "--out", str(tmp_path / "new")).out.strip())
    assert path.parent == tmp_path / "new"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shown["media"]["sha256"]
    assert atelier("workspace", "discard", asset_id).out == f"{asset_id} removed\n"
    assert atelier("workspace", "show", asset_id).code == 4


def test_upload(atelier: Run, tmp_path: Path) -> None:
    Image.new("RGB", (32, 24), "teal").save(tmp_path / "teal.png")
    done = atelier("workspace", "upload", str(tmp_path / "teal.png"))
    assert "image/png  32x24  teal.png" in done.out
    (tmp_path / "no.png").write_bytes(b"no picture")
    assert atelier("workspace", "upload", str(tmp_path / "no.png")).code == 4
    assert atelier("workspace", "upload", str(tmp_path / "none.png")).code == 2


def test_library(atelier: Run, asset_id: str, tmp_path: Path) -> None:
    (first,) = atelier("library", "save", asset_id, "--json").json["results"]
    (again,) = atelier("library", "save", asset_id, "--json").json["results"]
    item_id = first["item"]["item_id"]
    assert again["item"]["item_id"] == item_id
    assert item_id in atelier("library", "list").out
    assert "a heron" in atelier("library", "show", item_id).out
    (path,) = atelier("library", "download", item_id, "--out", str(tmp_path), "--json").json["files"]
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == first["item"]["media"]["sha256"]
    archive = tmp_path / "new" / "all.zip"
    assert atelier("library", "download", item_id, "--zip", str(archive)).out == f"{archive}\n"
    with zipfile.ZipFile(archive) as packed:
        (name,) = packed.namelist()
        assert hashlib.sha256(packed.read(name)).hexdigest() == first["item"]["media"]["sha256"]
    by_words = atelier("library", "download", "--query", "heron", "--zip", str(archive), "--json").json["files"]
    assert by_words == [str(archive)]
    assert zipfile.is_zipfile(archive)
    assert atelier("library", "download", "--zip", str(archive)).code == 2
    assert atelier("library", "download", "--query", "heron").code == 2
    assert atelier("library", "delete", item_id).out == f"{item_id} deleted\n"
    assert item_id not in atelier("library", "list", "--json").out


def test_items_are_searched_tagged_trashed_restored_and_collected(atelier: Run, asset_id: str) -> None:
    (saved,) = atelier("library", "save", asset_id, "--json").json["results"]
    item_id = saved["item"]["item_id"]

    def found(*options: str) -> bool:
        return item_id in [item["item_id"] for item in atelier("library", "search", *options, "--json").json["items"]]

    assert found("her") and not found("her", "--tag", "bird") and not found("walrus")
    assert atelier("library", "tag", item_id, "--add", "Bird", "--favourite").out == f"{item_id} changed\n"
    assert found("--tag", "bird", "--favourites", "--sort", "title")
    assert "tag      Bird: 1" in atelier("library", "search", "--count", "heron").out
    assert atelier("library", "tag", item_id).code == 2
    atelier("library", "tag", item_id, "--remove", "bird", "--no-favourite")
    assert not found("--tag", "bird")

    (heap,) = atelier("library", "collections", "--create", "Birds", "--json").json["collections"]
    heap_id = heap["collection_id"]
    assert atelier("library", "collect", item_id, "--into", heap_id).code == 0
    assert found("--collection", heap_id)
    assert "Herons" in atelier("library", "collections", "--rename", heap_id, "Herons").out
    assert atelier("library", "collections", "--delete", heap_id, "--json").json["collections"] == []
    assert atelier("library", "collect", item_id).code == 2

    assert atelier("library", "trash", item_id).out == f"{item_id} in the trash\n"
    assert item_id in atelier("library", "trash").out
    assert not found() and found("--trashed")
    assert atelier("library", "tag", item_id, "--add", "x").code == 4
    assert atelier("library", "restore", item_id).code == 0
    assert found()
    assert atelier("library", "delete", item_id).code == 0
    assert atelier("library", "restore", item_id).code == 4


def test_a_key_of_workers_may_be_for_some_worker_types(atelier: Run) -> None:
    words = ("keys", "create", "--owner", "attic", "--kind", "worker", "--worker-type", "sdxl", "--worker-type", "wan")
    assert atelier(*words, "--json").json["key"]["worker_types"] == ["sdxl", "wan"]
    assert atelier("keys", "create", "--owner", "attic", "--worker-type", "sdxl").code != 0


def test_an_item_and_its_file_give_the_same_request(atelier: Run, asset_id: str, tmp_path: Path) -> None:
    (saved,) = atelier("library", "save", asset_id, "--json").json["results"]
    item_id = saved["item"]["item_id"]
    (path,) = atelier("library", "download", item_id, "--out", str(tmp_path), "--json").json["files"]
    by_item, by_file = atelier("again", item_id).json, atelier("again", path).json
    assert by_file == {name: by_item[name] for name in by_file}
    made = saved["item"]["provenance"]
    assert (by_file["prompt"], by_file["seed"]) == (made["prompt"], made["seed"])
    assert atelier("again", item_id, "--submit").code == 0
    (tmp_path / "no.txt").write_text("nothing", "utf-8")
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    for thing in ("no.txt", "plain.png", "missing.png"):
        assert atelier("again", str(tmp_path / thing)).code == 2


def test_a_video_gives_its_request(tmp_path: Path) -> None:
    size, still = (832, 464), ()
    task = Task("generate", "video", "wan", "a kite", "", 7, 1, *size, 4, "draft", still, 16, 8, (0,))
    with Mp4Writer(tmp_path / "kite.mp4", (32, 18), 8, made_with(task, 9, "sketch"), encoder="sketch") as writer:
        for _ in range(4):
            writer.add(Image.new("RGB", (32, 18), "teal"))
    request, notes = request_of(tmp_path / "kite.mp4", as_enhanced=False)
    assert notes == []
    assert request == {
        **{"prompt": "a kite", "negative_prompt": "", "model": "wan", "format": "video", "quantity": 1, "seed": 9},
        **{"quality": "draft", "width": 832, "height": 464, "steps": 4, "duration_seconds": 2.0, "frame_rate": 8},
    }


def test_saving_what_is_not_there_is_refused(atelier: Run) -> None:
    done = atelier("library", "save", "0190a0a0-0000-5000-8000-000000000000")
    assert done.code == 4
    assert "not_found" in done.err


@pytest.mark.parametrize(
    ("state", "said"), [("nothing_saved", "nothing is saved yet"), ("nothing_matches", "nothing matches")]
)
def test_an_empty_library_says_why(run: Run, api: ScriptedApi, state: str, said: str) -> None:
    api.script(reply_json({"items": [], "next_page_token": "", "empty_state": state}))
    done = run("library", "list", "--url", api.url)
    assert (done.code, done.out) == (0, "")
    assert said in done.err


@pytest.mark.parametrize(
    ("words", "reply", "said"),
    [
        (("library", "collections"), "collections", "no collections\n"),
        (("webhooks", "deliveries"), "deliveries", "no deliveries\n"),
    ],
)
def test_an_empty_list_says_so(run: Run, api: ScriptedApi, words: tuple[str, ...], reply: str, said: str) -> None:
    api.script(reply_json({reply: [], "next_page_token": ""}))
    done = run(*words, "--url", api.url)
    assert (done.code, done.out, done.err) == (0, "", said)


def test_a_job_for_a_prompt_makes_text_and_not_nothing_of_nothing(run: Run, api: ScriptedApi) -> None:
    api.script(reply_json({"jobs": [{"job_id": "j1", "state": "succeeded", "enhancement_only": True}]}))
    assert run("jobs", "list", "--url", api.url).out.split() == ["j1", "succeeded", "text"]


@pytest.mark.parametrize("noun", ["workspace", "library"])
def test_open_hands_the_address_to_the_browser(
    run: Run, api: ScriptedApi, monkeypatch: pytest.MonkeyPatch, noun: str
) -> None:
    opened: list[str] = []

    def browser(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", browser)
    api.script(reply_json({("asset" if noun == "workspace" else "item"): {"url": "http://here/media"}}))
    assert run(noun, "open", "x", "--url", api.url).out == "http://here/media\n"
    assert opened == ["http://here/media"]


def test_keys(atelier: Run, up: UpProcess, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "ada.key"
    done = atelier("keys", "create", "--owner", "ada", "--name", "a laptop", "--queued-jobs", "3", "--out", str(out))
    assert done.out == f"{out}\n"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert out.read_text().strip() not in done.out + done.err
    as_ada = ("--url", up.url, "--key-file", str(out))
    assert run("jobs", "list", *as_ada, "--json").json["jobs"] == []
    assert run("keys", "list", *as_ada).code == 4
    (key,) = atelier("keys", "list", "--owner", "ada", "--json").json["keys"]
    assert (key["kind"], key["name"]) == ("user", "a laptop")
    assert "a laptop" in atelier("keys", "list", "--owner", "ada").out
    assert (key.get("requests_per_minute"), key["queued_jobs"]) == (None, 3)
    limited = atelier("keys", "limit", key["key_id"], "--requests-per-minute", "90", "--running-jobs", "0")
    assert limited.out == "requests a minute: 90\nqueued jobs: as the settings say\nrunning jobs: any number\n"
    assert atelier("keys", "limit", "none", "--queued-jobs", "1").code == 4
    assert atelier("keys", "revoke", key["key_id"]).code == 0
    assert "revoked" in atelier("keys", "list", "--owner", "ada").out
    assert atelier("keys", "create", "--owner", "ada", "--out", str(out)).code == 2


def test_webhooks(atelier: Run) -> None:
    told = ("--webhook", "https://hooks.invalid/", "--webhook-event", "completed", "--webhook-dialect", "openai")
    job_id = atelier("generate", "a heron", *told, "--no-wait").out.strip()
    atelier("jobs", "cancel", job_id)
    assert atelier("generate", "a heron", *told[2:], "--no-wait").code == 2
    (delivery,) = atelier("webhooks", "deliveries", "--job", job_id, "--json").json["deliveries"]
    assert delivery["delivery_id"] in atelier("webhooks", "deliveries", "--job", job_id, "--state", "pending").out
    assert atelier("webhooks", "deliveries", "--job", job_id, "--state", "delivered").out == ""
    assert "https://hooks.invalid/" in atelier("webhooks", "redeliver", delivery["delivery_id"]).out
    assert atelier("webhooks", "redeliver", "none").code == 4
    before = atelier("webhooks", "secret").out
    made = atelier("webhooks", "rotate-secret")
    assert made.out.startswith("whsec_") and made.out != before and "until" in made.err
    assert atelier("webhooks", "secret").out == made.out


def test_a_new_key_is_printed_once(atelier: Run) -> None:
    done = atelier("keys", "create", "--owner", "bo", "--kind", "worker")
    assert done.out.startswith("atl_")
    assert done.out.count("\n") == 1
    secret = done.out.strip().split("_", 2)[2]
    assert secret not in atelier("keys", "list", "--json").out


def test_models(atelier: Run) -> None:
    words = ("--worker-type", "sdxl", "--format", "image", "--alias", "tiny-alias", "--max-quantity", "2")
    assert atelier("models", "add", "tiny", *words).code == 0
    row = next(model for model in atelier("models", "list", "--json").json["models"] if model["name"] == "tiny")
    assert (row["aliases"], row["max_quantity"], row["connected_workers"]) == (["tiny-alias"], 2, 1)
    assert atelier("generate", "x", "--model", "tiny", "--quantity", "3").code == 4
    assert "tiny" in atelier("models", "list").out
    first = atelier("models", "workers", "--limit", "1", "--json").json
    assert len(first["workers"]) == 1
    if first["next_page_token"]:
        assert f"--page-token {first['next_page_token']}" in atelier("models", "workers", "--limit", "1").err
    assert atelier("models", "delete", "tiny").code == 0
    assert "tiny" not in atelier("models", "list").out


def test_config_show_tells_value_and_source_and_masks_secrets(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "atelier.toml").write_text('[router]\nlease_ttl = "12s"\n')
    monkeypatch.setenv("ATELIER_ROUTER_MAX_ATTEMPTS", "7")
    monkeypatch.setenv("ATELIER_CLIENT_KEY", "atl_k_topsecret")
    done = run("config", "show", "--json", "--config", str(tmp_path / "atelier.toml"), "--set", "asset.asset_expiry=1d")
    rows = {row["name"]: row for row in done.json["settings"]}
    assert (rows["asset.asset_expiry"]["value"], rows["asset.asset_expiry"]["source"]) == ("1d", "flag")
    assert (rows["router.max_attempts"]["value"], rows["router.max_attempts"]["source"]) == (
        "7",
        "environment ATELIER_ROUTER_MAX_ATTEMPTS",
    )
    assert rows["router.lease_ttl"]["value"] == "12s"
    assert "atelier.toml" in rows["router.lease_ttl"]["source"]
    assert rows["router.retry_backoff"]["source"] == "default"
    assert "topsecret" not in done.out
    assert "topsecret" not in run("config", "show").out


def test_migrate_brings_all_databases_up_to_date(run: Run, tmp_path: Path) -> None:
    done = run("migrate", "--data-dir", str(tmp_path), "--json")
    services = {service["name"]: service["revision"] for service in done.json["services"]}
    assert set(services) == {"router", "asset", "library"}
    assert all(services.values())
    assert all((tmp_path / name / f"{name}.sqlite3").is_file() for name in services)
    assert run("migrate", "--data-dir", str(tmp_path)).out.count("was up to date") == 3


def test_migrate_is_refused_while_the_services_run(run: Run, up: UpProcess) -> None:
    done = run("migrate", "--data-dir", str(up.data_dir))
    assert done.code == 2
    assert f"process {up.process.pid}" in done.err


def test_doctor_finds_nothing_when_all_is_well(atelier: Run) -> None:
    done = atelier("doctor", "--json")
    bad = [finding for finding in done.json["findings"] if not finding["ok"]]
    assert (done.code, bad) == (0, [])
    checks = {finding["check"] for finding in done.json["findings"]}
    assert checks >= {"python", "data folder", "key files", "gateway", "your key", "workers of type sdxl"}


def test_doctor_says_what_to_do(run: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    for name in ("admin.key", "gateway.key", "library.key"):
        (keys / name).write_text("x")
        (keys / name).chmod(0o600)
    (keys / "admin.key").chmod(0o644)
    done = run("doctor", "--data-dir", str(tmp_path), "--url", "http://127.0.0.1:9")
    assert done.code == 3
    assert "missing: worker.key" in done.out
    assert f"others can read admin.key\n       chmod 600 {keys}/*" in done.out
    assert "atelier up" in done.out


def test_json_keeps_to_the_names_of_the_api(atelier: Run, asset_id: str) -> None:
    """What --json prints is what the API answered, also fields that this command line does not know."""
    page = atelier("workspace", "list", "--limit", "1", "--json")
    assert set(json.loads(page.out)) == {"assets", "next_page_token"}
    (asset,) = page.json["assets"]
    assert asset["asset_id"] == asset_id
    assert asset["media"].keys() >= {"content_type", "size_bytes", "sha256", "width", "height", "duration_ms"}


def test_the_log_of_the_running_system_holds_no_traceback(up: UpProcess) -> None:
    said = "".join(up.errors)
    assert "Traceback" not in said, said
    assert sys.executable not in said
