"""Decided once: flag > ATELIER_* > atelier.toml > default; secrets from files and masked; unknown keys are errors."""

from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path

import pytest

from service_kit.secret import Secret
from service_kit.settings import SETTINGS, SettingsError, for_tests, load, to_text
from service_kit.units import parse_duration


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "atelier.toml"
    path.write_text(
        '[router]\nlisten = "1.1.1.1:1"\nlease_ttl = "3s"\nmax_attempts = 5\n[core]\nreflection = true\n'
        '[worker]\nmodels = ["a", "b"]\n'
    )
    return path


def test_defaults() -> None:
    settings = load()
    assert settings.router.listen == "127.0.0.1:7401"
    assert settings.router.lease_ttl == timedelta(seconds=30)
    assert settings.asset.max_output_bytes == 1 << 30
    assert settings.core.data_dir == Path.home() / ".local/share/atelier"
    assert settings.keys_dir == settings.core.data_dir / "keys"
    assert settings.service_dir("asset") == settings.core.data_dir / "asset"


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(toml: Path) -> None:
    environ = {"ATELIER_ROUTER_LISTEN": "2.2.2.2:2", "ATELIER_ROUTER_LEASE_TTL": "4s", "PATH": "/bin"}
    settings = load({"router.listen": "3.3.3.3:3"}, environ, toml)
    assert settings.router.listen == "3.3.3.3:3"
    assert settings.router.lease_ttl == timedelta(seconds=4)
    assert (settings.router.max_attempts, settings.core.reflection, settings.worker.models) == (5, True, ("a", "b"))
    sources = {row.name: row.source for row in settings.explain()}
    assert sources["router.listen"] == "flag"
    assert sources["router.lease_ttl"] == "environment ATELIER_ROUTER_LEASE_TTL"
    assert sources["router.max_attempts"] == f"file {toml}"
    assert sources["router.max_leases"] == "default"


def test_the_file_is_found_by_the_environment_or_in_the_folder(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(environ={"ATELIER_CONFIG": str(toml)}).router.max_attempts == 5
    assert load().router.max_attempts == 3
    monkeypatch.chdir(toml.parent)
    assert load().router.max_attempts == 5


@pytest.mark.parametrize(
    ("flags", "environ", "file", "expected"),
    [
        ({"router.lisen": "x"}, {}, "", "Did you mean router.listen"),
        ({}, {"ATELIER_ROUTER_LISEN": "x"}, "", "Did you mean ATELIER_ROUTER_LISTEN"),
        ({}, {"ATELIER_CORE_DATA_DIR": "x"}, "", "Did you mean ATELIER_DATA_DIR"),
        ({}, {"ATELIER_QQQQQQQQ": "x"}, "", "atelier config show"),
        ({}, {"ATELIER_DATA_DIR_FILE": "x"}, "", "Did you mean ATELIER_DATA_DIR"),
        ({}, {}, "[router]\nlisen = 'x'", "unknown key router.lisen. Did you mean router.listen"),
        ({}, {}, "[ruoter]\nlisten = 'x'", r"no section \[ruoter\]. Did you mean router"),
        ({}, {}, "listen = 'x'", r"no section \[listen\]"),
        ({}, {}, "[router", "not valid TOML"),
        ({}, {"ATELIER_ROUTER_LEASE_TTL": "30"}, "", "ATELIER_ROUTER_LEASE_TTL.*'30'.*a duration such as"),
        ({}, {"ATELIER_ROUTER_MAX_ATTEMPTS": "-1"}, "", "a whole number"),
        ({}, {"ATELIER_REFLECTION": "yes"}, "", "true or false"),
        ({}, {}, "[router]\nmax_attempts = 'three'", "a whole number"),
        ({}, {}, "[router]\nmax_attempts = 2.5", "a whole number"),
        ({}, {}, "[router]\nmax_attempts = true", "a whole number"),
        ({}, {}, "[router]\nlease_ttl = 30", "a duration such as"),
        ({}, {}, "[worker]\nmodels = [1]", "a list of texts"),
    ],
)
def test_what_is_unknown_or_unusable_is_named(
    tmp_path: Path, flags: dict[str, str], environ: dict[str, str], file: str, expected: str
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(file)
    with pytest.raises(SettingsError, match=expected):
        load(flags, environ, path)


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load(config=tmp_path / "absent.toml")


def test_a_secret_may_come_from_a_file_but_not_from_both(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("atl_secret\n")
    environ = {"ATELIER_WORKER_KEY_FILE": str(tmp_path / "key")}
    assert load(environ=environ).worker.key.reveal() == "atl_secret"
    with pytest.raises(SettingsError, match="Both ATELIER_WORKER_KEY and ATELIER_WORKER_KEY_FILE"):
        load(environ=environ | {"ATELIER_WORKER_KEY": "x"})
    with pytest.raises(SettingsError, match="ATELIER_WORKER_KEY_FILE names cannot be read"):
        load(environ={"ATELIER_WORKER_KEY_FILE": str(tmp_path / "absent")})


def test_a_secret_does_not_print() -> None:
    secret = Secret("hunter2")
    settings = load({"worker.key": "hunter2"})
    for text in (
        str(secret),
        repr(secret),
        f"{secret}",
        f"{secret:>20}",
        repr(settings),
        str([secret]),
        repr(settings.explain()),
    ):
        assert "hunter2" not in text
    assert {row.name: row.value for row in settings.explain()}["worker.key"] == "********"
    assert {row.name: row.value for row in settings.explain()}["client.key"] == ""
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        copy.copy(secret)
    assert secret == Secret("hunter2") != Secret("hunter3")
    assert secret and not Secret("")


def test_every_setting_has_a_name_an_environment_variable_and_a_sentence() -> None:
    assert len({row.env for row in SETTINGS}) == len({row.name for row in SETTINGS}) == len(SETTINGS)
    for row in SETTINGS:
        assert row.doc[0].isupper(), row.name
        assert row.doc.endswith("."), row.name
        assert isinstance(row.default, Secret) == row.secret


def test_every_default_can_be_written_and_read_again() -> None:
    flags = {row.name: to_text(row.default) for row in SETTINGS}
    settings, default = load(flags), load()
    for row in SETTINGS:
        assert settings.value(row.name) == default.value(row.name)


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        load().router.listen = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "seconds"), [("7d", 604800), ("30s", 30), ("50ms", 0.05), ("1h30m", 5400), ("1.5s", 1.5), ("0s", 0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "7", "d", "-1s", "1 s", "1s!", "s1"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="a duration such as"):
        parse_duration(text)


def test_settings_of_tests_touch_nothing_else(tmp_path: Path) -> None:
    settings = for_tests(tmp_path, router__lease_ttl="1s", worker__models=("a",))
    assert {settings.value(row.name) for row in SETTINGS if row.key == "listen"} == {"127.0.0.1:0"}
    assert settings.core.data_dir == tmp_path
    assert settings.sketch.step_delay == timedelta(0)
    assert (settings.router.lease_ttl, settings.worker.models) == (timedelta(seconds=1), ("a",))
    with pytest.raises(SettingsError, match=r"router\.lisen"):
        for_tests(tmp_path, router__lisen="x")
