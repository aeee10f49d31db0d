"""The keys and values of all conversations that a model goes on with, in one tensor a layer.

Rows are aligned at their ends: the row with n tokens lies in [end - n, end), so that one step adds one position to all
of them at the same place. A step writes at `end` and counts only when `advance` is called: one that failed half way is
simply done again.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

# Tensors grow by so many positions at once, and unused ones at the beginning are given up when they are so many.
BLOCK = 128


class KeyValues:
    """Keys and values of some rows; `cache` is what a model of transformers takes as `past_key_values`."""

    def __init__(self, layers: int) -> None:
        """Hold nothing yet; tensors are made with the first keys that come."""
        self._layers = [_Layer(self) for _ in range(layers)]
        self.cache = Cache(layers=list(self._layers))
        self.end = 0
        self.lengths: list[int] = []

    def mask(self, new: int) -> torch.Tensor:
        """Return which positions each row sees when `new` positions are added: [rows, end + new], 1 for its own."""
        starts = torch.tensor([self.end - length for length in self.lengths]).unsqueeze(1)
        return (torch.arange(self.end + new).unsqueeze(0) >= starts).long()

    def advance(self, new: int) -> None:
        """Count what the last step wrote for every row."""
        self.end += new
        self.lengths = [length + new for length in self.lengths]

    def join(self, other: KeyValues) -> None:
        """Take the one row of `other` as the last one of this. When memory does not suffice, nothing has changed."""
        length = other.lengths[0]
        shift = max(0, length - self.end)
        end = max(length, self.end)
        merged = [
            mine.joined(theirs, shift, end, length) for mine, theirs in zip(self._layers, other._layers, strict=True)
        ]
        for layer, (keys, values) in zip(self._layers, merged, strict=True):
            layer.hold(keys, values)
        self.end = end
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.lengths) - 1
        for layer in self._layers:
            layer.move(last, row)
        self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        if self.lengths and (unused := self.end - max(self.lengths)) >= BLOCK:
            for layer in self._layers:
                layer.trim(unused, self.end)
            self.end -= unused

    @property
    def size_bytes(self) -> int:
        """What the tensors take."""
        return sum(layer.size_bytes for layer in self._layers)


class _Layer(DynamicLayer):  # type: ignore[misc]  # it comes without types
    """One layer of `KeyValues`: tensors of [rows, heads, positions, features], with positions to spare."""

    def __init__(self, owner: KeyValues) -> None:
        super().__init__()
        self._owner = owner

    def get_seq_length(self, *_: object) -> int:
        return self._owner.end

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new positions behind the end, and return everything up to them."""
        # A step may have empty rows behind those of the owner.
        rows, new, begin = len(self._owner.lengths), key_states.shape[-2], self._owner.end
        if not self.is_initialized:
            self.hold(_room(key_states, rows, new), _room(value_states, rows, new))
        if self.keys.shape[-2] < begin + new:
            self.hold(_longer(self.keys, begin, begin + new), _longer(self.values, begin, begin + new))
        self.keys[:rows, :, begin : begin + new] = key_states[:rows]
        self.values[:rows, :, begin : begin + new] = value_states[:rows]
        return self.keys[:rows, :, : begin + new], self.values[:rows, :, : begin + new]

    def hold(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def joined(self, other: _Layer, shift: int, end: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows, before = len(self._owner.lengths), self._owner.end
        if not rows:
            return other.keys, other.values
        pairs = ((self.keys, other.keys), (self.values, other.values))
        keys, values = (_with_row(mine, theirs, rows, before, shift, end, length) for mine, theirs in pairs)
        return keys, values

    def move(self, source: int, target: int) -> None:
        if source != target:
            self.keys[target] = self.keys[source]
            self.values[target] = self.values[source]

    def trim(self, unused: int, end: int) -> None:
        rows = len(self._owner.lengths)
        self.hold(*(_longer(one[:rows, :, unused:end], end - unused, end - unused) for one in (self.keys, self.values)))

    @property
    def size_bytes(self) -> int:
        return sum(one.numel() * one.element_size() for one in (self.keys, self.values)) if self.is_initialized else 0


def blocks(positions: int) -> int:
    """Return how many positions a tensor has that is to hold so many."""
    return -(-positions // BLOCK) * BLOCK


def _room(like: torch.Tensor, rows: int, positions: int) -> torch.Tensor:
    # Zeros, not whatever was there: what a mask hides is still multiplied, and nothing times NaN is NaN.
    return torch.zeros((rows, like.shape[1], blocks(positions), like.shape[3]), dtype=like.dtype, device=like.device)


def _longer(old: torch.Tensor, used: int, positions: int) -> torch.Tensor:
    new = _room(old, old.shape[0], positions)
    new[:, :, :used] = old[:, :, :used]
    return new


def _with_row(
    mine: torch.Tensor, theirs: torch.Tensor, rows: int, before: int, shift: int, end: int, length: int
) -> torch.Tensor:
    if shift or rows == mine.shape[0] or mine.shape[-2] < end:
        room = _room(mine, max(mine.shape[0], rows + 1), max(end, mine.shape[-2]))
        room[:rows, :, shift : shift + before] = mine[:rows, :, :before]
        mine = room
    mine[rows, :, : end - length] = 0
    mine[rows, :, end - length : end] = theirs[0, :, :length]
    return mine
