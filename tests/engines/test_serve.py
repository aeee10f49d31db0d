"""A real upstream, `transformers serve` with a tiny model: streamed, counted, limited and hung up on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from atelier_worker.engine import Cancelled, Chat, EngineError, Message, Task
from atelier_worker.engines.openai_engine import OpenAIEngine
from tests.atelier_worker.engines.listener import IMAGE
from tests.atelier_worker.openai.stand_in import Heard
from tests.engines.served import serving
from tests.engines.tiny_qwen import write_tiny_qwen
from tests.support.config_worker import config_worker
from tests.support.system import running_system

_ENGINE = """
[[engine]]
name = "talk"
engine = "atelier_worker.engines.openai_engine:OpenAIEngine"
worker_types = ["chat"]
url = "{url}"
  [[engine.models]]
  name = "chat"
  source = "{source}"
"""
_ASKED = Chat((Message("system", "Be brief."), Message("user", "What do you see?")), max_tokens=40)
_TALK = replace(IMAGE, stage="chat", format=None, model="chat", indexes=(), chat=_ASKED)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = write_tiny_qwen(tmp_path_factory.mktemp("qwen"), words=200)
    with serving(folder) as url:
        yield url, folder


@pytest.fixture
def engine(served: tuple[str, Path]) -> OpenAIEngine:
    url, folder = served
    model = {"name": "chat", "source": str(folder), "serves": ["chat", "enhance"]}
    return OpenAIEngine({"engine": "openai", "url": url, "models": [model]})


def _talk(**changes: object) -> Task:
    return replace(_TALK, chat=replace(_ASKED, **changes))  # type: ignore[arg-type]


def test_a_conversation_is_streamed_and_counted(engine: OpenAIEngine, tmp_path: Path) -> None:
    context = Heard(tmp_path)
    engine.run(_talk(max_tokens=20), context)
    assert len(context.text) > 1, "it comes in pieces"
    [(reason, read, written)] = context.finishes
    assert reason in ("stop", "length")
    assert read
    assert written
    assert 0 < written <= 20
    assert context.lines[-1].endswith("tokens.")


def test_the_same_seed_says_the_same(engine: OpenAIEngine, tmp_path: Path) -> None:
    texts = []
    for seed in (7, 7, 8):
        context = Heard(tmp_path)
        engine.run(replace(_talk(temperature=0.8), seed=seed), context)
        texts.append("".join(context.text))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_cancelled_conversation_ends_within_one_token(engine: OpenAIEngine, tmp_path: Path) -> None:
    context = Heard(tmp_path, cancel_when=lambda so_far: len(so_far.text) >= 2)
    with pytest.raises(Cancelled):
        engine.run(_talk(max_tokens=400), context)
    assert len(context.text) == 2
    after = Heard(tmp_path)
    engine.run(_talk(max_tokens=3), after)
    assert after.finishes, "the upstream is free for the next one"


def test_another_model_is_refused_in_a_sentence(served: tuple[str, Path], tmp_path: Path) -> None:
    model = {"name": "chat", "source": "nobody/has-this"}
    engine = OpenAIEngine({"engine": "openai", "url": served[0], "models": [model], "attempts": 1})
    with pytest.raises(EngineError, match="upstream"):
        engine.run(_TALK, Heard(tmp_path))


async def test_a_conversation_and_an_enhancement_go_through_the_whole_system(
    served: tuple[str, Path], tmp_path: Path
) -> None:
    url, folder = served
    engine = _ENGINE.format(url=url, source=folder)
    pieces: list[str] = []
    async with (
        running_system(tmp_path / "data", worker=False) as system,
        config_worker(system, tmp_path, engine, "chat"),
        system.client() as client,
    ):
        asked = [{"role": "user", "content": "What do you see?"}]
        reply = await client.chat(asked, seed=7, max_tokens=20, on_text=pieces.append)
        again = await client.chat(asked, seed=7, max_tokens=20)
        enhanced = await client.enhance("a kite over dunes", model="sdxl", timeout=30)
    assert pieces[-1] == reply.text == again.text
    assert reply.usage is not None
    assert 0 < reply.usage.completion_tokens <= 20
    assert enhanced.text
