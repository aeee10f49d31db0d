"""What goes wrong with a language model: one conversation fails with a sentence, the others go on."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from atelier_worker.engine import Cancelled, EngineError
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.transformers_engine import TransformersEngine
from tests.engines.chat_tasks import Heard, chat_task
from tests.engines.test_chat import make_engine, said
from tests.engines.tiny_qwen import write_tiny_qwen

Forward = Callable[..., Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_qwen(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Give a model that may be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Forward, dict[str, Any]], Any]], None]]:
    """Give a way to stand between the engine and the model: `forward(between)`."""
    real = transformers.Qwen2ForCausalLM.forward

    def install(between: Callable[[Forward, dict[str, Any]], Any]) -> None:
        def stand_in(self: Any, **arguments: Any) -> Any:
            return between(lambda **given: real(self, **given), arguments)

        monkeypatch.setattr(transformers.Qwen2ForCausalLM, "forward", stand_in)

    yield install


def rows_of(arguments: dict[str, Any]) -> int:
    """Return how many conversations a step is for; 0 for the reading of a prompt."""
    return int((arguments["position_ids"] > 0).sum()) if arguments["input_ids"].shape[1] == 1 else 0


# Long enough for rows whose threads begin one after the other to meet.
LONG = 160


def run_rows(engine: TransformersEngine, count: int) -> tuple[list[Heard], list[EngineError]]:
    """Run rows at once; return what was heard of each, and the failures."""
    heard = [Heard() for _ in range(count)]
    failures: list[EngineError] = []

    def run(place: int) -> None:
        try:
            engine.run(chat_task(seed=place, max_tokens=LONG), heard[place])
        except EngineError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return heard, failures


def test_a_row_that_is_not_a_number_fails_alone(folder: Path, forward: Any) -> None:
    engine = make_engine(folder)
    spoilt: list[int] = []

    def between(model: Forward, arguments: dict[str, Any]) -> Any:
        out = model(**arguments)
        if rows_of(arguments) == 3 and not spoilt:
            spoilt.append(1)
            out.logits[1] = float("nan")
        return out

    forward(between)
    heard, failures = run_rows(engine, 3)

    assert len(failures) == 1
    assert "NaN" in str(failures[0])
    assert not failures[0].retryable
    assert sorted(one.ended is not None for one in heard) == [False, True, True]
    untouched = [one.text for one in heard if one.ended is not None]
    assert untouched == [
        said(engine, chat_task(seed=n, max_tokens=LONG)).text for n, one in enumerate(heard) if one.ended is not None
    ]


def test_where_memory_runs_out_the_newest_row_gives_way(folder: Path, forward: Any) -> None:
    engine = make_engine(folder)
    alone = [said(engine, chat_task(seed=seed, max_tokens=LONG)).text for seed in range(3)]
    raised: list[int] = []

    def between(model: Forward, arguments: dict[str, Any]) -> Any:
        out = model(**arguments)
        # After the layers have written their keys: the step is done again.
        if rows_of(arguments) == 3 and not raised:
            raised.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return out

    forward(between)
    heard, failures = run_rows(engine, 3)

    assert [error.retryable for error in failures] == [True]
    assert "no memory left" in str(failures[0])
    assert [one.text for one in heard if one.ended] == [alone[n] for n, one in enumerate(heard) if one.ended]
    assert sum(one.ended is not None for one in heard) == 2


def test_a_step_that_fails_fails_its_rows_and_the_loop_starts_again(folder: Path, forward: Any) -> None:
    engine = make_engine(folder)
    raised: list[int] = []

    def between(model: Forward, arguments: dict[str, Any]) -> Any:
        if rows_of(arguments) == 2 and not raised:
            raised.append(1)
            raise RuntimeError("a kernel broke")
        return model(**arguments)

    forward(between)
    _, failures = run_rows(engine, 2)

    assert [(error.retryable, str(error)) for error in failures] == [
        (True, "The model failed with RuntimeError; the worker's log says where.")
    ] * 2
    assert said(engine, chat_task()).ended is not None


def refused(source: Path | str, **options: object) -> str:
    """Return the sentence with which a model is refused at the start."""
    with pytest.raises(OptionsError) as told:
        make_engine(Path(source), **options)
    return str(told.value)


def test_a_model_that_cannot_be_used_is_refused_with_the_remedy(copy: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == "The folder of the model tiny does not exist: correct its source."
    (tmp_path / "empty").mkdir()
    assert "has no config.json" in refused(tmp_path / "empty")
    (tmp_path / "model.bin").touch()
    said = refused(tmp_path / "model.bin")
    assert said.startswith("The source of the model tiny is the file model.bin: name the folder in which ")
    assert said.endswith("It is of a format that can hold programs, which no engine reads.")

    tokenizer = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert "has no chat template" in refused(copy)

    (copy / "config.json").write_text("{")
    assert "its config.json cannot be read" in refused(copy)
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"\x80")
    assert "no weights in safetensors files" in refused(copy)


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"vocab_size": 10**9}, "speaks of a model that is far larger than its weights"),
        ({"intermediate_size": 10**8}, "speaks of a model that is far larger than its weights"),
        ({"num_attention_heads": 0}, "its config.json cannot be read (ZeroDivisionError)"),
        ({"x": "x" * (17 << 20)}, "config.json has"),
        ({"auto_map": {"AutoConfig": "theirs.Config"}, "model_type": "theirs"}, "its config.json cannot be read"),
    ],
    ids=["words", "width", "heads", "size", "programs"],
)
def test_a_configuration_that_is_nonsense_is_refused_at_the_start(
    copy: Path, values: dict[str, object], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody is asked whether a program that came with a model may run.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    change(copy / "config.json", **values)
    assert sentence in refused(copy)
    assert str(copy) not in refused(copy)


def test_sizes_beyond_the_weights_are_no_lack_of_memory(copy: Path) -> None:
    change(copy / "config.json", hidden_size=200_000, vocab_size=10, intermediate_size=1)
    with pytest.raises(EngineError, match=r"far larger|a file is damaged") as told:
        said(make_engine(copy), chat_task())
    assert not told.value.retryable


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"temperature": "hot"}, "its generation_config.json cannot be read"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
    ],
)
def test_habits_that_no_model_can_have_are_refused(copy: Path, values: dict[str, object], sentence: str) -> None:
    change(copy / "generation_config.json", **values)
    assert sentence in refused(copy)


def test_a_model_may_say_that_it_chooses_among_all_tokens(copy: Path) -> None:
    change(copy / "generation_config.json", top_k=-1)
    assert said(make_engine(copy), chat_task()).ended is not None


@pytest.mark.parametrize("template", ["{{ 1 / 0 }}", "{{ messages[0] + 1 }}", "{{ raise_exception('no') }}"])
def test_a_chat_template_that_fails_is_named(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(EngineError, match="chat template of the model tiny refuses this conversation"):
        said(make_engine(copy), chat_task())


def test_no_tokens_at_all_cannot_be_asked_for(folder: Path) -> None:
    with pytest.raises(EngineError, match="max_tokens must be at least 1, got 0"):
        said(make_engine(folder), chat_task(max_tokens=0))


def test_weights_that_are_not_in_the_folder_or_not_safetensors_are_refused(copy: Path) -> None:
    index = copy / "model.safetensors.index.json"
    (copy / "weights.bin").write_bytes(b"\x80")
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "weights.bin"}}))
    assert "names 'weights.bin', and only safetensors files beside it are read" in refused(copy)
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "../other/model.safetensors"}}))
    assert "only safetensors files beside it are read" in refused(copy)
    index.unlink()
    (copy / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    assert "holds an adapter" in refused(copy)


def test_a_model_that_is_not_on_this_machine_is_named_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    models = [{"name": "tiny", "source": "nobody/nothing"}]
    with pytest.raises(
        OptionsError, match=r"tiny \(nobody/nothing\) is not on this machine: fetch it with `hf download"
    ):
        TransformersEngine({"engine": "transformers", "device": "cpu", "models": models})


def test_damaged_weights_are_named(copy: Path) -> None:
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert refused(copy).startswith("The weights of the model tiny cannot be read: model.safetensors is")

    # Damaged while the worker runs: nothing of it stays, and once the file is whole the next task loads it.
    weights.write_bytes(whole)
    engine = make_engine(copy)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError, match=r"weights of the model tiny cannot be read \("):
        said(engine, chat_task())
    weights.write_bytes(whole)
    assert said(engine, chat_task()).ended is not None


def test_weights_that_lack_tensors_are_named(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EngineError, match="incomplete: 1 tensors are missing"):
        said(make_engine(copy), chat_task())


def test_options_are_checked(folder: Path) -> None:
    assert "colour is not known" in refused(folder, colour="red")
    assert "enhancer is big, which is none of models: tiny" in refused(folder, enhancer="big")
    assert "device" in refused(folder, device="cuda:9")
    with pytest.raises(EngineError, match="has no model 'huge'; it has tiny") as raised:
        said(make_engine(folder), chat_task(model="huge"))
    assert raised.value.retryable


def test_a_model_that_is_fetched_is_waited_for_where_it_can_be_cancelled(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, calls = threading.Event(), []

    def find(name: str, *_: object, **__: object) -> Path:
        calls.append(name)
        fetched.wait(60)
        return folder

    monkeypatch.setattr("atelier_worker.engines.transformers_engine.loading.find", find)
    engine = make_engine(folder, download=True)
    heard = Heard()
    heard.cancelled.set()
    with pytest.raises(Cancelled):
        engine.run(chat_task(), heard)
    fetched.set()
    heard = said(engine, chat_task())

    assert heard.ended is not None
    assert calls == ["tiny"]
