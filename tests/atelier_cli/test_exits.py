"""Every exit code, and the sentence that comes with it. Nothing ends in a traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from atelier_cli.commands import jobs
from tests.atelier_cli.conftest import Run
from tests.atelier_client.scripted import ScriptedApi, event, refusal, reply_json, stream
from tests.support.system import UpProcess, clean_environ

NOBODY = "http://127.0.0.1:9"


def test_0_when_all_is_well(atelier: Run) -> None:
    done = atelier("jobs", "list")
    assert (done.code, "Traceback" in done.err) == (0, False)


def test_1_when_the_job_failed(run: Run, api: ScriptedApi) -> None:
    failed = {"job_id": "j1", "state": "failed", "failure": {"reason": "engine_failed", "message": "It broke."}}
    api.script(reply_json({"job_id": "j1"}), stream(event("state", failed, "c1")))
    done = run("generate", "a fox", "--url", api.url, "--key", "k")
    assert (done.code, done.out) == (1, "")
    assert "job j1 failed: It broke. (engine_failed)" in done.err


def test_1_when_the_job_was_cancelled(atelier: Run) -> None:
    job_id = atelier("generate", "a fox", "--quantity", "8", "--no-wait").out.strip()
    assert atelier("jobs", "cancel", job_id).out == "cancelled\n"
    done = atelier("jobs", "watch", job_id)
    assert done.code == 1
    assert f"job {job_id} was cancelled" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate"], "PROMPT"),
        (["generate", "x", "--format", "sculpture"], "sculpture"),
        (["paint"], "paint"),
        (["generate", "x", "--reference", "/no/such.png"], "there is no file /no/such.png"),
        (["generate", "x", "--mask", "/no/such.png"], "there is no file /no/such.png"),
        (["jobs", "list", "--set", "router.listn=x"], "router.listen"),
        (["jobs", "list", "--set", "router.lease_ttl=soon"], "router.lease_ttl"),
        (["jobs", "list", "--set", "nothing"], "NAME=VALUE"),
        (["jobs", "list", "--config", "/no/such.toml"], "/no/such.toml"),
        (["jobs", "list", "--key-file", "/no/such.key"], "/no/such.key"),
        (["worker", "--key-file", "/no/such.key"], "there is no key file /no/such.key"),
        (["completion", "tcsh"], "tcsh"),
        ([], "usage: atelier"),
    ],
)
def test_2_when_it_was_used_wrongly(run: Run, words: list[str], said: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["generate", "x", "--size", "100"],
            "atelier generate: there is no option or argument --size 100\n  See `atelier generate --help`.\n",
        ),
        (
            ["library", "delete"],
            "atelier library delete: the following arguments are required: ITEM\n"
            "  See `atelier library delete --help`.\n",
        ),
    ],
)
def test_2_says_what_is_wrong_and_not_every_option_before_it(run: Run, words: list[str], said: str) -> None:
    assert run(*words).err == said


def test_3_when_the_address_is_none(run: Run) -> None:
    done = run("jobs", "list", "--url", "localhost:7400")
    assert done.code == 3
    assert "localhost:7400 is no address: one begins with http:// or https://." in done.err


def test_4_when_it_takes_an_operator_says_which_key(up: UpProcess, run: Run, atelier: Run) -> None:
    key = atelier("keys", "create", "--owner", "grace").out.strip()
    done = run("keys", "list", "--url", up.url, "--key", key)
    assert done.code == 4
    assert "Use an operator's key, such as admin.key" in done.err


@pytest.mark.parametrize(
    ("reference", "said"),
    [("fox.png:moon", "must be one of style"), ("fox.png:style:much", "must be a number from 0 to 1, got 'much'")],
)
def test_2_when_a_reference_cannot_be_read(run: Run, tmp_path: Path, reference: str, said: str) -> None:
    (tmp_path / "fox.png").write_bytes(b"")
    done = run("generate", "x", "--url", NOBODY, "--reference", str(tmp_path / reference))
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("words", [("jobs", "list"), ("generate", "x"), ("enhance", "x"), ("jobs", "watch", "j1")])
def test_3_when_nobody_is_there(run: Run, words: tuple[str, ...]) -> None:
    done = run(*words, "--url", NOBODY)
    assert (done.code, done.out) == (3, "")
    assert NOBODY in done.err
    assert "Traceback" not in done.err


def test_3_says_how_to_start_one(run: Run) -> None:
    assert "atelier up" in run("models", "list", "--url", NOBODY).err


def test_3_when_somebody_else_is_there(run: Run, api: ScriptedApi) -> None:
    done = run("jobs", "list", "--url", api.url)
    assert done.code == 3
    assert "not one of Atelier's" in done.err


def test_4_names_the_field(atelier: Run) -> None:
    done = atelier("generate", "a fox", "--quantity", "99")
    assert (done.code, done.out) == (4, "")
    assert "quantity" in done.err
    assert "99" in done.err


def test_4_lists_every_field(run: Run, api: ScriptedApi) -> None:
    fields = [{"field": "steps", "message": "must be 1..200"}, {"field": "seed", "message": "must be 0 or more"}]
    api.script(refusal(400, "INVALID_ARGUMENT", "out_of_range", fields=fields))
    done = run("generate", "x", "--url", api.url)
    assert done.code == 4
    assert "  steps: must be 1..200\n  seed: must be 0 or more\n" in done.err


def test_4_with_a_wrong_key_says_how_to_give_one(up: UpProcess, run: Run) -> None:
    done = run("jobs", "list", "--url", up.url, "--key", "atl_0000000000000000_" + "x" * 43)
    assert done.code == 4
    assert "--key-file" in done.err
    assert "x" * 43 not in done.err


def test_4_for_what_is_not_there(atelier: Run) -> None:
    for words in (
        ("jobs", "show"),
        ("workspace", "show"),
        ("library", "show"),
        ("keys", "revoke"),
        ("models", "delete"),
    ):
        done = atelier(*words, "0190a0a0-0000-7000-8000-000000000000")
        assert done.code == 4, words


def test_5_when_it_takes_too_long(atelier: Run) -> None:
    done = atelier("generate", "a fox", "--quantity", "8", "--timeout", "0.3")
    assert done.code == 5
    job_id = done.err.split("atelier jobs watch ")[1].split("`")[0]
    assert atelier("jobs", "cancel", job_id).code == 0


def test_70_for_a_fault_of_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(context: object) -> int:
        raise KeyError("secret detail")

    monkeypatch.setattr(jobs, "list_jobs", broken)
    done = run("jobs", "list")
    assert done.code == 70
    assert done.err.count("\n") == 1
    assert "--debug" in done.err
    with pytest.raises(KeyError):
        run("jobs", "list", "--debug")


def test_a_reader_that_leaves_early_is_no_error(up: UpProcess) -> None:
    command = f"{sys.executable} -m atelier_cli config show --data-dir {up.data_dir} | head -1"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, check=True, env=clean_environ())
    assert (done.stderr, done.stdout.count("\n")) == ("", 1)
