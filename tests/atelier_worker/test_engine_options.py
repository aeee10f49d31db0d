"""An engine reads its options strictly: the wrong key, type or value is refused in one sentence that names it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable

import pytest

from atelier_worker.engine_options import Options, OptionsError

TABLE = """
name = "pictures"
engine = "diffusers"
worker_types = ["sdxl"]
labels = { gpu = "4090" }
device = "cuda:0"
limit = "1.5GiB"
grace = "30s"
often = true
slots = 1
steps = 12
strength = 0.5
kinds = ["a", "b"]
  [[models]]
  name = "sdxl"
  source = "a/b"
  loras = { ink = "ink.safetensors" }
  [[models]]
  source = "c/d"
"""


def options(text: str = TABLE) -> Options:
    return Options(tomllib.loads(text), where="[[engine]] pictures")


def test_each_type_is_read() -> None:
    given = options()
    assert given.text("device") == "cuda:0"
    assert given.size_bytes("limit") == 3 << 29
    assert given.duration_s("grace") == 30.0
    assert given.boolean("often") is True
    assert given.integer("steps") == 12
    assert given.number("strength") == 0.5
    assert given.texts("kinds") == ("a", "b")
    first, second = given.tables("models")
    assert (first.text("name"), first.text("source")) == ("sdxl", "a/b")
    assert first.text_table("loras") == {"ink": "ink.safetensors"}
    assert second.text("source") == "c/d"
    first.done()
    second.done()
    given.done()


def test_nothing_at_all_may_be_a_duration_where_that_is_allowed() -> None:
    assert Options({"grace": "0s"}).duration_s("grace", 1.0, may_be_zero=True) == 0.0
    assert Options({"grace": "0"}).duration_s("grace", may_be_zero=True) == 0.0


def test_what_is_not_given_has_its_default() -> None:
    given = options("")
    assert given.text("device", "auto") == "auto"
    assert given.size_bytes("limit", None) is None
    assert given.duration_s("grace", 5.0) == 5.0
    assert given.boolean("often", False) is False
    assert given.integer("steps", 7) == 7
    assert given.number("strength", None) is None
    assert (given.texts("kinds"), given.tables("models"), given.text_table("loras")) == ((), [], {})
    given.done()


def test_the_texts_of_the_settings_are_read_as_well() -> None:
    given = Options({"steps": "6", "delay": "0.002", "grace": "2.5", "often": "false", "kinds": "a, b"})
    assert (given.integer("steps"), given.number("delay"), given.duration_s("grace")) == (6, 0.002, 2.5)
    assert (given.boolean("often"), given.texts("kinds")) == (False, ("a", "b"))
    given.done()


WRONG: list[tuple[str, Callable[[Options], object], str]] = [
    ("", lambda o: o.text("device"), "device is missing: give it a text."),
    ("device = 3", lambda o: o.text("device"), "device takes a text, got 3."),
    ("device = ''", lambda o: o.text("device"), "device takes a text, got ''."),
    (
        "dtype = 'int4'",
        lambda o: o.choice("dtype", ("auto", "float16")),
        "dtype takes one of auto, float16, got 'int4'.",
    ),
    ("steps = 1.5", lambda o: o.integer("steps"), "steps takes a whole number, got 1.5."),
    ("steps = true", lambda o: o.integer("steps"), "steps takes a whole number, got True."),
    ("steps = 0", lambda o: o.integer("steps", 1, least=1), "steps takes a whole number of at least 1, got 0."),
    ("steps = 9", lambda o: o.integer("steps", 1, least=1, most=8), "steps takes a whole number from 1 to 8, got 9."),
    ("share = nan", lambda o: o.number("share"), "share takes a number, got nan."),
    ("share = 2.5", lambda o: o.number("share", most=1), "share takes a number of at most 1, got 2.5."),
    ("often = 1", lambda o: o.boolean("often"), "often takes true or false, got 1."),
    ("limit = '20 gigs'", lambda o: o.size_bytes("limit"), "limit takes a size such as 20GiB, got '20 gigs'."),
    ("limit = -1", lambda o: o.size_bytes("limit"), "limit takes a size such as 20GiB, got -1."),
    ("limit = '0GiB'", lambda o: o.size_bytes("limit"), "limit takes a size such as 20GiB, got '0GiB'."),
    ("grace = 'soon'", lambda o: o.duration_s("grace"), "grace takes a duration such as 30s, 5m or 1h, got 'soon'."),
    ("kinds = [1]", lambda o: o.texts("kinds"), "kinds takes a list of texts, got [1]."),
    ("loras = { ink = 1 }", lambda o: o.text_table("loras"), "loras takes a table of texts, got {'ink': 1}."),
    ("models = 'sdxl'", lambda o: o.tables("models"), "models takes a list of tables, got 'sdxl'."),
    ("model = 'sdxl'", lambda o: o.table("model"), "model takes a table, got 'sdxl'."),
]


@pytest.mark.parametrize(("text", "read", "sentence"), WRONG, ids=[row[2] for row in WRONG])
def test_a_wrong_value_is_refused_in_a_sentence(text: str, read: Callable[[Options], object], sentence: str) -> None:
    with pytest.raises(OptionsError) as caught:
        read(options(text))
    assert str(caught.value) == f"[[engine]] pictures: {sentence}"


@pytest.mark.parametrize("value", (f"'{'9' * 400}'", "'99999999999h'", f"'{'9' * 400}h'", "'11y'"))
def test_a_duration_without_end_is_refused(value: str) -> None:
    with pytest.raises(OptionsError, match="takes a duration such as 30s, 5m or 1h, got"):
        options(f"grace = {value}").duration_s("grace")


@pytest.mark.parametrize("value", (f"'{'9' * 400}GiB'", "9" * 400, "'9999999TiB'"))
def test_a_size_that_no_machine_has_is_refused(value: str) -> None:
    with pytest.raises(OptionsError, match="takes a size such as 20GiB, got"):
        options(f"limit = {value}").size_bytes("limit")


def test_a_long_value_is_cut_in_the_sentence() -> None:
    with pytest.raises(OptionsError) as caught:
        options(f"steps = '{'x' * 500}'").integer("steps")
    assert len(str(caught.value)) < 150


def test_what_nobody_asked_for_is_refused_with_the_key_that_is_near() -> None:
    given = options("engine = 'diffusers'\nslots = 1\nsteps = 1\nstps = 3")
    given.integer("steps")
    with pytest.raises(OptionsError, match=r"^\[\[engine\]\] pictures: stps is not known. Did you mean steps\?$"):
        given.done()


def test_what_nobody_asked_for_is_refused_with_what_is_known() -> None:
    given = options("colour = 'red'")
    given.text("device", "auto")
    given.integer("steps", 1)
    with pytest.raises(OptionsError, match=r"^\[\[engine\]\] pictures: colour is not known. Known: device, steps.$"):
        given.done()


def test_an_inner_table_is_named_in_its_errors_and_knows_no_key_of_the_worker() -> None:
    first, second = options().tables("models")
    with pytest.raises(OptionsError, match=r"^\[\[engine\]\] pictures, models 2: name is missing: give it a text.$"):
        second.text("name")
    with pytest.raises(OptionsError, match=r"^\[\[engine\]\] pictures, models sdxl: name is not known"):
        first.done()
