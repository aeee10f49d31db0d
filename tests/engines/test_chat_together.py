"""Eight conversations at once make at least three times the tokens of one in the same time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from atelier_worker.engines.transformers_engine import TransformersEngine
from tests.engines.chat_tasks import chat_task
from tests.engines.test_chat import make_engine, said, together
from tests.engines.tiny_qwen import write_tiny_qwen

STREAMS = 8
TOKENS = 64
ROUNDS = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model whose step takes some milliseconds on one thread, as those of real models do on real devices.

    It has no words of its own: with thousands of added tokens, which no real tokenizer has, reading the prompts takes
    a tenth of the time.
    """
    return write_tiny_qwen(tmp_path_factory.mktemp("small"), hidden=384, layers=8, words=0)


@pytest.mark.parametrize("repeatable", [True, False])
def test_eight_streams_make_three_times_the_tokens_of_one(
    folder: Path, repeatable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = make_engine(folder, repeatable=repeatable)
    said(engine, chat_task(max_tokens=4))  # loads it
    one, eight = [], []
    for number in range(ROUNDS):
        # In turn, so that what else the machine does falls on both.
        one.append(tokens_a_second(engine, 1, number))
        eight.append(tokens_a_second(engine, STREAMS, number))
    # The quickest of each: whatever else the machine does only makes one slower.
    ratio = max(eight) / max(one)
    figures = f"one {max(one):.0f} tokens/s, eight {max(eight):.0f}: {ratio:.1f} times"
    with capsys.disabled():
        print(f"\nrepeatable {repeatable}: {figures}")

    assert ratio >= 3, figures


def tokens_a_second(engine: TransformersEngine, streams: int, seed: int) -> float:
    """Run streams at once and return what they made together."""
    tasks = [chat_task(seed=seed * 100 + number, max_tokens=TOKENS) for number in range(streams)]
    begin = time.perf_counter()
    heard = together(engine, tasks)
    wall = time.perf_counter() - begin
    return sum(one.ended[2] or 0 for one in heard if one.ended) / wall
