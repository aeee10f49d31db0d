"""Prompts of any length as embeddings for SDXL: nothing is cut, whatever the encoders were built for.

CLIP reads 77 tokens: a beginning, 75 of the prompt, an end. A longer prompt is read in chunks of 75, and what the
encoders make of the chunks is put one after the other, which the cross attention takes at any length. A prompt of one
chunk gives what the pipeline makes of it by itself, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a pipeline is called with: embeddings [1, 77 × chunks, width], and pooled ones [1, width]."""

    prompt_embeds: Any
    pooled_prompt_embeds: Any
    negative_prompt_embeds: Any
    negative_pooled_prompt_embeds: Any

    def as_arguments(self) -> dict[str, Any]:
        """Return them as arguments of the call."""
        return {name: getattr(self, name) for name in self.__slots__}


def encode(pipeline: Any, prompt: str, negative_prompt: str, device: Any) -> Prompts:
    """Encode both prompts on `device`, the shorter one filled up with empty chunks.

    Without a negative prompt the model's own way is taken: zeros, or the empty text.
    """
    import torch

    encoders = [
        (tokenizer, encoder)
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        if encoder is not None
    ]
    chunks = max(len(_chunks(tokenizer, text)) for tokenizer, _ in encoders for text in (prompt, negative_prompt))
    with torch.no_grad():
        embeds, pooled = _encoded(encoders, prompt, chunks, device)
        if not negative_prompt and pipeline.config.force_zeros_for_empty_prompt:
            return Prompts(embeds, pooled, torch.zeros_like(embeds), torch.zeros_like(pooled))
        return Prompts(embeds, pooled, *_encoded(encoders, negative_prompt, chunks, device))


def _chunks(tokenizer: Any, text: str) -> list[list[int]]:
    """The tokens of a text without beginning and end, in pieces that fit between these; at least one."""
    tokens = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
    size = tokenizer.model_max_length - 2
    return [tokens[start : start + size] for start in range(0, max(1, len(tokens)), size)]


def _encoded(encoders: list[tuple[Any, Any]], text: str, chunks: int, device: Any) -> tuple[Any, Any]:
    import torch

    parts, pooled = [], None
    for tokenizer, encoder in encoders:
        pieces = _chunks(tokenizer, text)
        ids = torch.tensor([_filled(tokenizer, piece) for piece in [*pieces, *[[]] * (chunks - len(pieces))]])
        made = encoder(ids.to(device), output_hidden_states=True)
        if made[0].ndim == 2:
            pooled = made[0][:1]
        states = made.hidden_states[-2]
        parts.append(states.reshape(1, -1, states.shape[-1]))
    embeds = torch.concat(parts, dim=-1)
    dtype = encoders[-1][1].dtype
    return embeds.to(dtype=dtype, device=device), pooled


def _filled(tokenizer: Any, tokens: list[int]) -> list[int]:
    """A chunk as the encoder reads it: beginning, tokens, end, padding."""
    whole = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id]
    return whole + [tokenizer.pad_token_id] * (tokenizer.model_max_length - len(whole))
