"""worker.toml is read strictly: what is wrong is said in one sentence with file, table, key and what is allowed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from atelier_worker.plans import ProcessPlan
from atelier_worker.task_watch import Limits
from atelier_worker.worker_file import read_worker_file
from service_kit.settings import SettingsError, for_tests
from tests.atelier_worker.fake_router import KEY

WHOLE = """
[worker]
connect = "router.example:7401"
key_file = "worker.key"
name = "attic"
labels = { room = "attic" }
drain_grace = "30s"
status = "127.0.0.1:7490"

[[engine]]
name = "pictures"
engine = "diffusers"
worker_types = ["sdxl"]
slots = 2
device = "cuda:0"
labels = { gpu = "4090" }
task_deadline = "1h"
stall_limit = "2m"
load_limit = "20m"
  [[engine.models]]
  name = "sdxl"
  source = "stabilityai/stable-diffusion-xl-base-1.0"
  loras = { ink = "loras/ink.safetensors" }
  [[engine.models]]
  name = "mine"
  source = "./models/mine"

[[engine]]
engine = "sketch"
"""


def read(folder: Path, text: str) -> ProcessPlan:
    (folder / "worker.key").write_text(f"{KEY}\n")
    (folder / "worker.key").chmod(0o600)
    (folder / "worker.toml").write_text(text)
    return read_worker_file(folder / "worker.toml", for_tests(folder / "data", worker__key=KEY))


def test_a_whole_file(tmp_path: Path) -> None:
    plan = read(tmp_path, WHOLE)
    assert (plan.connect, plan.key.reveal(), plan.status) == ("router.example:7401", KEY, "127.0.0.1:7490")
    assert plan.drain_grace == timedelta(seconds=30)
    pictures, sketch = plan.engines
    assert (pictures.name, pictures.engine, pictures.worker_name) == ("pictures", "diffusers", "attic-pictures")
    assert (pictures.worker_types, pictures.slots) == (("sdxl",), 2)
    assert pictures.labels == {"room": "attic", "gpu": "4090"}
    assert pictures.limits == Limits(3600.0, 120.0, 1200.0)
    assert pictures.options["device"] == "cuda:0"
    assert (sketch.name, sketch.worker_name, sketch.slots) == ("sketch", "attic-sketch", None)
    assert sketch.labels == {"room": "attic"}
    assert sketch.limits == Limits()


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "there").mkdir(parents=True)
    template = 'template = "flows/a.json"\napi_key_file = "~/key"\n[[engine.models]]\nsource = "models/there"\n'
    text = WHOLE + template
    pictures, other = read(tmp_path, text).engines
    models = pictures.options["models"]
    assert models == [
        {
            "name": "sdxl",
            "source": "stabilityai/stable-diffusion-xl-base-1.0",
            "loras": {"ink": str(tmp_path / "loras" / "ink.safetensors")},
        },
        {"name": "mine", "source": str(tmp_path / "models" / "mine")},
    ]
    assert other.options["template"] == str(tmp_path / "flows" / "a.json")
    assert other.options["api_key_file"] == str(Path("~/key").expanduser())
    assert other.options["models"] == [{"source": str(tmp_path / "models" / "there")}]


def test_what_the_file_leaves_out_comes_from_the_settings(tmp_path: Path) -> None:
    plan = read(tmp_path, '[[engine]]\nengine = "sketch"\n')
    assert (plan.connect, plan.key.reveal(), plan.status) == ("127.0.0.1:7401", KEY, "")
    assert plan.engines[0].worker_name.endswith("-sketch")


ENGINE = '[[engine]]\nengine = "sketch"\n'
WRONG = [
    ("", "worker.toml needs at least one [[engine]] table; `atelier worker init` writes one."),
    ("[worker\n", "worker.toml is not TOML: Expected ']' at the end of a table declaration (at line 1, column 8)."),
    (f"{ENGINE}[gpu]\n", "worker.toml: gpu is not known. Known: engine, worker."),
    (f"worker = 1\n{ENGINE}", "worker.toml: worker takes a table, got 1."),
    ("engine = 1\n", "worker.toml: engine takes a list of tables, got 1."),
    ("[engine]\nengine = 'sketch'", "worker.toml: engine takes a list of tables, got {'engine': 'sketch'}."),
    (f"[worker]\nstats = 'x'\n{ENGINE}", "worker.toml, [worker]: stats is not known. Did you mean status?"),
    ("x = " + "[" * 50_000, "worker.toml nests tables and lists deeper than 16."),
    (f"[engine{'.a' * 3000}]\n", "worker.toml nests tables and lists deeper than 16."),
    (f"{ENGINE}# {'x' * (1 << 20)}", "worker.toml cannot be used: it takes at most 1048576 bytes."),
    (
        "".join(f"{ENGINE}name = 'e{number}'\n" for number in range(65)),
        "worker.toml takes at most 64 [[engine]] tables, got 65: each is a process. Divide them among several files.",
    ),
    (f"{ENGINE}since = 2026-01-01\n", 'worker.toml: since takes no date or time; write it as a text, in "…".'),
    (
        f"{ENGINE}models = [{{ source = 'a' }}, {{ source = \"a\\u0000\" }}]\n",
        "worker.toml: source takes no text with a NUL",
    ),
    (
        f'{ENGINE}labels = {{ gpu = "a\\nb" }}\n',
        "worker.toml, [[engine]] 1: labels takes labels without control characters, got 'gpu'.",
    ),
    (f"[[engine]]\nengine = '{'e' * 9999}'\n", "worker.toml, [[engine]] 1: name makes the worker '"),
    (f'{ENGINE}name = "a\\nb"\n', "worker.toml, [[engine]] a\\nb: name makes the worker '"),
    (f"[worker]\nkey_file = '.'\n{ENGINE}", "worker.toml, [worker]: key_file . cannot be read: Is a directory."),
    (f"{ENGINE}slots = 257\n", "worker.toml, [[engine]] 1: slots takes a whole number from 1 to 256, got 257."),
    (f"[worker]\nkey_file = '~nobody-here/k'\n{ENGINE}", "worker.toml, [worker]: key_file names ~nobody-here/k, which"),
    (f"[worker]\nconnect = 7401\n{ENGINE}", "worker.toml, [worker]: connect takes a text, got 7401."),
    (
        f"[worker]\nconnect = 'http://127.0.0.1:7400'\n{ENGINE}",
        "worker.toml: worker.connect must be the router's host:port, such as 127.0.0.1:7401, got",
    ),
    (f"[worker]\nlabels = ['a']\n{ENGINE}", "worker.toml, [worker]: labels takes a table of texts, got ['a']."),
    (
        f"[worker]\ndrain_grace = 30\n{ENGINE}",
        "worker.toml, [worker]: drain_grace takes a duration such as 30s, 5m or 1h, got 30.",
    ),
    (f"[worker]\ninsecure = 'x'\n{ENGINE}", "worker.toml, [worker]: insecure takes true or false, got 'x'."),
    (
        f"[worker]\nkey_file = 'no.key'\n{ENGINE}",
        "worker.toml, [worker]: key_file names no.key, which is not there; an operator makes a key with "
        "`atelier keys create --kind worker`.",
    ),
    ("[[engine]]\nslots = 1\n", "worker.toml, [[engine]] 1: engine is missing: give it a text."),
    (f"{ENGINE}slots = 0\n", "worker.toml, [[engine]] 1: slots takes a whole number from 1 to 256, got 0."),
    (f"{ENGINE}name='a'\nslots='x'\n", "worker.toml, [[engine]] a: slots takes a whole number from 1 to 256, got 'x'."),
    (f"{ENGINE}worker_types = 3\n", "worker.toml, [[engine]] 1: worker_types takes a list of texts, got 3."),
    (f"{ENGINE}stall_limit = '0s'\n", "worker.toml, [[engine]] 1: stall_limit takes a duration such as"),
    (f"{ENGINE}{ENGINE}", "worker.toml has 2 engines named 'sketch': give each its own name."),
    (
        f"[worker]\nname = 'attic'\n{ENGINE}name = 'a/b'\n",
        "worker.toml, [[engine]] a/b: name makes the worker 'attic-a/b': together with the name in [worker] it takes "
        "1 to 64 letters, digits, dots, underscores and hyphens.",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG, ids=[row[1][:60] for row in WRONG])
def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(sentence)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[worker]".encode("utf-16"), "worker.toml cannot be used: byte 0 is not UTF-8."),
        (b"\x7fELF\x02\xd0", "worker.toml cannot be used: byte 5 is not UTF-8."),
    ],
)
def test_what_is_no_text_is_said_so(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "worker.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        read_worker_file(tmp_path / "worker.toml", for_tests(tmp_path))
    assert str(caught.value) == sentence


def test_the_mark_that_some_editors_begin_with_is_no_part_of_the_file(tmp_path: Path) -> None:
    assert len(read(tmp_path, f"\ufeff{WHOLE}").engines) == 2


def test_a_key_file_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"key_file /dev/zero holds no key: it takes at most 4096 bytes\.$"):
        read(tmp_path, f'[worker]\nkey_file = "/dev/zero"\n{ENGINE}')


def test_sources_that_are_no_paths_are_left_to_the_engine(tmp_path: Path) -> None:
    long, far = "a" * 5000, "~nobody-here/model"
    plan = read(tmp_path, f"{ENGINE}models = [{{ source = '{long}' }}, {{ source = '{far}' }}]\n")
    assert plan.engines[0].options["models"] == [{"source": long}, {"source": str(tmp_path / far)}]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^There is no file .*worker\.toml; `atelier worker init` writes one\.$"):
        read_worker_file(tmp_path / "worker.toml", for_tests(tmp_path))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True)])
def test_a_key_that_others_can_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    (tmp_path / "hosted.key").write_text("secret")
    (tmp_path / "hosted.key").chmod(mode)
    read(tmp_path, f'{ENGINE}api_key_file = "hosted.key"\n')
    assert ("key_file_open_to_others" in caplog.text) is warned
    assert "secret" not in caplog.text
