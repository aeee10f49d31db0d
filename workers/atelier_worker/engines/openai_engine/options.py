"""What an operator says about an upstream: the table `[[engine]]` whose engine is `openai`, and its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from atelier_worker.engine_options import Options
from service_kit.secret import Secret

from .cost import Prices
from .upstream import Timeouts

EVERY_MODEL = "*"
SERVES = ("chat", "enhance", "images")
# The models of pictures that are known by their names: which shape of request they take.
SHAPES = ("plain", "gpt-image", "dall-e-3", "dall-e-2")
_SIZES: Mapping[str, tuple[str, ...]] = {
    "plain": (),
    "gpt-image": ("1024x1024", "1536x1024", "1024x1536"),
    "dall-e-3": ("1024x1024", "1792x1024", "1024x1792"),
    "dall-e-2": ("256x256", "512x512", "1024x1024"),
}
_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")
_LONGEST_KEY_BYTES = 16 << 10
_URL_TAKES = "takes the address of an API without a key in it, such as http://127.0.0.1:8000/v1."


@dataclass(frozen=True, slots=True)
class Model:
    """One model: `name` is what jobs say, `source` what the upstream calls it.

    `sizes` are (width, height) in pixels, empty when the upstream makes any; `seeds` tells whether it takes a seed.
    """

    name: str
    source: str
    serves: tuple[str, ...]
    prices: Prices
    seeds: bool
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"]
    shape: str
    sizes: tuple[tuple[int, int], ...]
    images_per_request: int


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """The whole table."""

    url: str
    key: Secret
    slots: int
    models: tuple[Model, ...]
    timeouts: Timeouts
    attempts: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    outgoing_allow: tuple[str, ...]

    def model(self, name: str, serves: str) -> Model | None:
        """The model that jobs call `name`, for one kind of work; None when there is none."""
        able = [model for model in self.models if serves in model.serves]
        return next((model for wanted in (name, EVERY_MODEL) for model in able if model.name == wanted), None)

    def first(self, serves: str) -> Model | None:
        """The first model for one kind of work, whatever it is called; None when there is none."""
        return next((model for model in self.models if serves in model.serves), None)


def read_options(table: Mapping[str, object]) -> UpstreamOptions:
    """Read and check a table.

    Raises:
        OptionsError: something is missing, unknown or cannot be used.
    """
    options = Options(table, where=f"[[engine]] {table.get('name', 'openai')}")
    read = UpstreamOptions(
        url=_url(options),
        key=_key(options),
        slots=options.integer("slots", 4, least=1, most=256),
        models=tuple(_model(one) for one in options.tables("models")),
        timeouts=Timeouts(
            idle=timedelta(seconds=options.duration_s("idle_timeout", 120.0)),
            total=timedelta(seconds=options.duration_s("timeout", 600.0)),
        ),
        attempts=options.integer("attempts", 4, least=1, most=20),
        requests_per_minute=options.integer("requests_per_minute", None, least=1),
        tokens_per_minute=options.integer("tokens_per_minute", None, least=1),
        outgoing_allow=options.texts("outgoing_allow"),
    )
    options.done()
    if not read.models:
        raise options.wrong("models", "is missing: name a model of the upstream in a table [[engine.models]].")
    return read


def _url(options: Options) -> str:
    url = options.text("url")
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        fine = fine and not parts.query and not parts.fragment and parts.port != 0
    except ValueError:
        fine = False
    if not fine:
        raise options.wrong("url", _URL_TAKES)
    return url.rstrip("/")


def _key(options: Options) -> Secret:
    """The key in a file; an empty one when no file is named."""
    name = options.text("api_key_file", None)
    if name is None:
        return Secret("")
    try:
        with Path(name).open("rb") as file:
            text = file.read(_LONGEST_KEY_BYTES + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise options.wrong("api_key_file", f"cannot be read: {type(error).__name__} at {name}.") from None
    if not text or len(text) > _LONGEST_KEY_BYTES or not text.isprintable() or " " in text:
        raise options.wrong("api_key_file", f"takes a file with one key on one line, and {name} is none.")
    return Secret(text)


def _model(options: Options) -> Model:
    name = options.text("name")
    source = options.text("source")
    serves = options.texts("serves", ("chat", "enhance"))
    for one in serves:
        if one not in SERVES:
            raise options.wrong("serves", f"takes {', '.join(SERVES)}, got {one!r}.")
    shape = options.choice("api", SHAPES, _shape_of(source))
    images = "images" in serves
    model = Model(
        name=name,
        source=source,
        serves=serves,
        prices=Prices(
            per_million_input_tokens=options.number("cost_per_million_input_tokens", None, least=0),
            per_million_output_tokens=options.number("cost_per_million_output_tokens", None, least=0),
            per_image=options.number("cost_per_image", None, least=0),
        ),
        seeds=options.boolean("seeds", not images),
        max_tokens_field="max_completion_tokens"
        if options.choice("max_tokens_field", _TOKENS_FIELDS, "max_tokens") == "max_completion_tokens"
        else "max_tokens",
        shape=shape,
        sizes=tuple(_size(options, text) for text in options.texts("sizes", _SIZES[shape])),
        images_per_request=options.integer("images_per_request", 1, least=1, most=10),
    )
    options.done()
    _check(options, model)
    return model


def _check(options: Options, model: Model) -> None:
    if "images" in model.serves and len(model.serves) > 1:
        raise options.wrong("serves", "takes images alone, or chat and enhance.")
    if model.images_per_request > 1 and model.seeds:
        raise options.wrong(
            "images_per_request", "is 1 where the upstream takes seeds: each picture is made with its own."
        )
    if model.images_per_request > 1 and model.shape == "dall-e-3":
        raise options.wrong("images_per_request", "is 1 for dall-e-3, which makes one at a time.")


def _shape_of(source: str) -> str:
    """The shape of request that a model takes whose name is well known."""
    for shape in ("gpt-image", "dall-e-3", "dall-e-2"):
        if source.startswith(shape):
            return shape
    return "plain"


def _size(options: Options, text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise options.wrong("sizes", f"takes sizes such as 1024x1024, got {text!r}.")
    return int(width), int(height)
