"""A Qwen2-shaped chat model with random weights and a tokenizer of bytes, written as a model on the hub is.

It says nothing of sense, but everything that an engine reads is there: config, safetensors, tokenizer, chat template.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

CONTEXT_LENGTH = 4096
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tiny_qwen(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    context_length: int = CONTEXT_LENGTH,
    words: int = 3000,
    do_sample: bool = True,
    template: str | None = CHAT_TEMPLATE,
    seed: int = 0,
) -> Path:
    """Write a model to `folder` and return it.

    Beside every byte its vocabulary has as many `words`, so that what it says looks like a text.
    """
    tokenizer = _tokenizer(words)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context_length,
        initializer_range=0.2,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        bos_token_id=None,
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    model = Qwen2ForCausalLM(config)
    habits = {"temperature": 0.9, "top_p": 0.95, "top_k": 0} if do_sample else {}
    model.generation_config = GenerationConfig(do_sample=do_sample, eos_token_id=config.eos_token_id, **habits)
    model.save_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(words: int) -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: number for number, sign in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    fast.add_tokens(list(_words(words)))
    return fast


def _words(number: int) -> list[str]:
    """Return words of three syllables, each with the space after it."""
    syllables = [a + b for a, b in product("bdfgklmnprstvz", "aeiou")]
    return [f"{''.join(three)} " for three, _ in zip(product(syllables, repeat=3), range(number), strict=False)]
