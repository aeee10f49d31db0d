"""Language models from a folder or the hub's cache: found, checked and loaded; each fault a sentence with its remedy.

Weights are read from safetensors files only, and nothing that comes with a model is run. Without `download` nothing
is fetched.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from atelier_worker.engine import EngineError, Message
from atelier_worker.engines.residency import is_out_of_memory, weights_bytes_of
from atelier_worker.engines.residency.out_of_memory import asks_for_more
from atelier_worker.weight_files import BrokenFile, can_run_code, check_configs, named_in

from .decoder import Shape
from .sampling import Habits

# Kinds of layers whose memory is keys and values alone. Others carry a state that cannot be aligned in a batch.
_LAYERS = ("full_attention", "sliding_attention")
_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
_CONTEXT_WHEN_UNSAID = 4096
# Weights that are packed, several to a number, are fewer than the configuration says.
_MOST_TIMES = 16


def find(name: str, source: str, folder: Path | None, *, download: bool) -> Path:
    """Return the folder with the files of the model `name`.

    Raises:
        EngineError: it is not there, or lacks what a model needs.
    """
    if folder is None:
        try:
            folder = Path(snapshot_download(source, local_files_only=not download, allow_patterns=list(_FILES)))
        except LocalEntryNotFoundError as error:
            raise EngineError(
                f"The model {name} ({source}) is not on this machine: fetch it with `hf download {source}`, "
                "or set download = true."
            ) from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise EngineError(
                f"The model {name} ({source}) could not be fetched: {type(error).__name__}. Check its name, the "
                "network, and whether it needs a token (HF_TOKEN).",
                retryable=True,
            ) from error
    if folder.is_file():
        why = " It is of a format that can hold programs, which no engine reads." if can_run_code(folder) else ""
        raise EngineError(
            f"The source of the model {name} is the file {folder.name}: name the folder in which config.json and the "
            f"*.safetensors files lie.{why}"
        )
    if not folder.is_dir():
        raise EngineError(f"The folder of the model {name} does not exist: correct its source.")
    if not (folder / "config.json").is_file():
        raise EngineError(
            f"The folder of the model {name} holds no model: it has no config.json. "
            "Name the folder in which config.json and the *.safetensors files lie."
        )
    if not any(folder.glob("*.safetensors")):
        raise EngineError(
            f"The model {name} has no weights in safetensors files; other formats are not read, as they can hold "
            "programs. Fetch a version with safetensors, or convert it."
        )
    if (folder / "adapter_config.json").is_file():
        raise EngineError(
            f"The folder of the model {name} holds an adapter, which would be put on a model that lies elsewhere: "
            "merge them into one folder, and name that."
        )
    try:
        check_configs(folder)
        for index in folder.glob("*.safetensors.index.json"):
            named_in(index)
    except (BrokenFile, OSError) as error:
        told = str(error).replace(f"{folder}/", "")
        raise EngineError(f"The model {name} cannot be read: {told}. Fetch it again.") from error
    return folder


class ChatFiles:
    """What of a model is small: its configuration, its tokens and its chat template. The weights are loaded apart."""

    def __init__(self, name: str, folder: Path, *, device: str, dtype: str) -> None:
        """Read the small files.

        Raises:
            EngineError: one is damaged, or this engine cannot run such a model.
        """
        self.name = name
        self._folder = folder
        self._device = device
        config = _read(
            name, "config.json", lambda: transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        )
        self._config = config.get_text_config()
        self.dtype = _dtype(dtype, self._config)
        self._check_layers()
        self.tokenizer = _read(
            name,
            "tokenizer",
            lambda: transformers.AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False),
        )
        if not self.tokenizer.chat_template:
            raise EngineError(
                f"The model {name} has no chat template, so it was not made for conversations: use its version that "
                "was (often called instruct, chat or it)."
            )
        generation = folder / "generation_config.json"
        self._generation = (
            _read(name, generation.name, lambda: transformers.GenerationConfig.from_pretrained(folder))
            if generation.is_file()
            else transformers.GenerationConfig()
        )
        self._check_numbers()

    @property
    def context_length(self) -> int:
        """How many tokens the model reads and writes in all."""
        return int(getattr(self._config, "max_position_embeddings", None) or _CONTEXT_WHEN_UNSAID)

    @property
    def shape(self) -> Shape:
        config = self._config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = int(config.num_hidden_layers)
        return Shape(layers, layers * 2 * int(heads) * int(size) * self.dtype.itemsize)

    @property
    def weights_bytes(self) -> int:
        """What the weights take once they are loaded."""
        files = sorted(self._folder.glob("*.safetensors"))
        try:
            return weights_bytes_of(files, dtype=str(self.dtype).removeprefix("torch."))
        except EngineError as error:
            raise EngineError(f"The weights of the model {self.name} cannot be read: {error}.") from error

    @property
    def working_bytes(self) -> int:
        """An upper estimate of what reading a piece of a prompt takes beside its keys and values."""
        config = self._config
        wide = int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size)
        return 512 * (wide * 4 + int(config.hidden_size) * 8) * 4 + int(config.vocab_size) * 4 * 16

    @property
    def ends(self) -> frozenset[int]:
        """The tokens with which the model ends its text."""
        given = self._generation.eos_token_id
        several = given if isinstance(given, list) else [] if given is None else [given]
        return frozenset(one for one in [*several, self.tokenizer.eos_token_id] if one is not None)

    @property
    def thinks(self) -> bool:
        """Whether the chat template speaks of thinking."""
        return "<think>" in str(self.tokenizer.chat_template)

    @property
    def habits(self) -> Habits:
        """How the model chooses tokens by itself."""
        own = self._generation
        penalty = float(own.repetition_penalty or 1.0)
        if not own.do_sample:
            return Habits(repetition_penalty=penalty)
        temperature = 1.0 if own.temperature is None else float(own.temperature)
        # Some write -1 for all of them.
        return Habits(temperature, float(own.top_p or 1.0), max(0, int(own.top_k or 0)), penalty)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return a conversation in tokens, up to where the assistant speaks next.

        What looks like a control token in a message is read as text, where transformers can do that: nobody speaks in
        another's name.

        Raises:
            EngineError: the chat template refuses it.
        """
        spoken = [{"role": message.role, "content": message.content} for message in messages]
        apply = self.tokenizer.apply_chat_template
        careful: Mapping[str, bool] = (
            {"sanitize_control_tokens": True}
            if "sanitize_control_tokens" in inspect.signature(apply).parameters
            else {}
        )
        try:
            read = apply(
                spoken, add_generation_prompt=True, tokenize=True, enable_thinking=False, return_dict=True, **careful
            )
        except Exception as error:  # a template is a program, and came with the model
            if is_out_of_memory(error):
                raise
            raise EngineError(
                f"The chat template of the model {self.name} refuses this conversation: {error}"
            ) from error
        return [int(token) for token in read["input_ids"]]

    def begins_thinking(self, prompt: Sequence[int]) -> bool:
        """Tell whether a conversation in tokens ends where the chat template has opened a block of thinking."""
        end: str = self.tokenizer.decode(list(prompt[-8:]), skip_special_tokens=False)
        return end.rstrip().endswith("<think>")

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without control tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def load(self) -> Any:
        """Return the model with its weights, on its device.

        Raises:
            EngineError: the weights are damaged or incomplete.
        """
        try:
            model, told = transformers.AutoModelForCausalLM.from_pretrained(
                self._folder,
                dtype=self.dtype,
                device_map={"": self._device},
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:
            if is_out_of_memory(error) and not asks_for_more(error, 4 * self._elements):
                raise
            raise EngineError(
                f"The weights of the model {self.name} cannot be read ({type(error).__name__}): a file is damaged or "
                "incomplete, or transformers does not know this kind of model. Fetch it again."
            ) from error
        missing = [key for key in told["missing_keys"] if not key.endswith("lm_head.weight")]
        if missing or told.get("mismatched_keys"):
            raise EngineError(
                f"The weights of the model {self.name} are incomplete: {len(missing) or len(told['mismatched_keys'])} "
                "tensors are missing or of another size. Fetch it again."
            )
        return model.eval().requires_grad_(False)

    def _check_numbers(self) -> None:
        """Compute once what the small files say, so that nonsense in them is found now and not by a job.

        Raises:
            EngineError: something is no number, or the model would be far larger than its weights are.
        """
        config = self._config
        self._elements = self.weights_bytes // self.dtype.itemsize

        def least() -> int:
            wide = int(getattr(config, "intermediate_size", None) or 0)
            _ = self.shape, self.working_bytes, self.context_length
            return int(config.hidden_size) * (int(config.vocab_size) + int(config.num_hidden_layers) * wide)

        if _read(self.name, "config.json", least) > _MOST_TIMES * self._elements:
            raise EngineError(
                f"The model {self.name} cannot be used: its config.json speaks of a model that is far larger than its "
                "weights. Fetch it again."
            )
        habits = _read(self.name, "generation_config.json", lambda: self.habits)
        if not (math.isfinite(habits.temperature) and habits.temperature >= 0 and habits.repetition_penalty > 0):
            raise EngineError(
                f"The model {self.name} cannot be used: temperature must be at least 0 and repetition_penalty more in "
                "its generation_config.json. Correct it, or fetch it again."
            )

    def _check_layers(self) -> None:
        kinds = set(getattr(self._config, "layer_types", None) or ("full_attention",))
        if other := sorted(kinds.difference(_LAYERS)):
            raise EngineError(
                f"The model {self.name} has layers of the kind {other[0]}, which this engine cannot run in a batch: "
                "use a model with attention only, or a server such as vLLM with the engine openai."
            )


def _dtype(dtype: str, config: Any) -> torch.dtype:
    if dtype != "auto":
        found: torch.dtype = getattr(torch, dtype)
        return found
    own = getattr(config, "dtype", None)
    if isinstance(own, str):
        own = getattr(torch, own, None)
    return own if isinstance(own, torch.dtype) else torch.float32


def _read(name: str, what: str, read: Any) -> Any:
    try:
        return read()
    except Exception as error:
        raise EngineError(
            f"The model {name} cannot be used: its {what} cannot be read ({type(error).__name__}). "
            "Fetch it again, or use a model that this version of transformers knows."
        ) from error
