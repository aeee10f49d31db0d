"""A step that gives each row the same numbers, to the last bit, whoever else is in it.

Numbers of a computer are rounded, so their sum depends on the order in which they are added, and kernels choose that
order by the shape of the whole batch. A steady step has one shape for everything: matrices are always multiplied with
the same number of rows, some of which may be empty, and attention is done for each row by itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "atelier_rows"
_step = threading.local()


def make_steady(model: Any) -> bool:
    """Have a model do its attention row by row; False when it does its attention in a way that this cannot replace."""
    if not (getattr(model, "_supports_attention_backend", False) and getattr(model, "_supports_sdpa", False)):
        return False
    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    model.set_attn_implementation(ATTENTION)
    return True


@contextmanager
def steady_step(lengths: Sequence[int]) -> Iterator[None]:
    """Within this, the model makes one step for rows that have so many tokens before it; rows beyond them are empty."""
    _step.lengths = tuple(lengths)
    try:
        yield
    finally:
        _step.lengths = None


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls it; out of a step it is that of torch, for all rows at once."""
    lengths: tuple[int, ...] | None = getattr(_step, "lengths", None)
    if lengths is None:
        everything: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **more
        )
        return everything
    end, window = key.shape[2], more.get("sliding_window")
    rows = []
    for row, length in enumerate(lengths):
        begin = end - length - 1 if window is None else max(end - length - 1, end - window)
        # In a place of their own, so that not even the alignment in memory depends on the others.
        own = (one[row : row + 1, :, begin:].contiguous() for one in (key, value))
        rows.append(sdpa_attention_forward(module, query[row : row + 1], *own, None, **more)[0])
    empty = query.shape[0] - len(rows)
    return torch.cat([*rows, rows[0].new_zeros((empty, *rows[0].shape[1:]))]), None
