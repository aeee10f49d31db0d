"""Which token comes next: by the model's own habits, or by what the request asks for; with a generator of its own.

Choosing is done on the CPU in 32 bits, row by row, so that what one row gets depends on no other: the same numbers
from the model and the same seed give the same token on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Enough of the likeliest tokens for nearly every `top_p`; when they are not, all are sorted.
_LIKELIEST = 256


@dataclass(frozen=True, slots=True)
class Habits:
    """How tokens are chosen. A `temperature` of 0 takes the likeliest; `top_k` of 0 and `top_p` of 1 leave all."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0


class NotNumbers(Exception):
    """The model's answer is not a number."""


class Sampler:
    """Chooses the tokens of one row."""

    def __init__(self, habits: Habits, seed: int, prompt: torch.Tensor) -> None:
        """`prompt` holds the tokens before the first one: repeating these is penalised like repeating one's own."""
        self._habits = habits
        self._generator = torch.Generator("cpu").manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
        self._seen = torch.unique(prompt) if habits.repetition_penalty != 1.0 else None

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token; `logits` are [vocabulary], 32 bits, on the CPU, and are not changed.

        Raises:
            NotNumbers: there are NaN among them, or nothing but infinities.
        """
        if not bool(torch.isfinite(logits.amax())):
            raise NotNumbers
        token = self._choose(self._penalised(logits))
        if self._seen is not None:
            self._seen = torch.unique(torch.cat([self._seen, torch.tensor([token])]))
        return token

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        if self._seen is None:
            return logits
        # As the models were tuned with it: https://arxiv.org/abs/1909.05858, with negative numbers made more so.
        penalty = self._habits.repetition_penalty
        logits = logits.clone()
        old = logits[self._seen]
        logits[self._seen] = torch.where(old > 0, old / penalty, old * penalty)
        return logits

    def _choose(self, logits: torch.Tensor) -> int:
        habits = self._habits
        if habits.temperature <= 0:
            return int(logits.argmax())
        # The highest comes to 0 before the division: no temperature is too small for it.
        shares = torch.softmax((logits - logits.amax()) / max(habits.temperature, 1e-4), dim=-1)
        tokens = None
        if habits.top_k or habits.top_p < 1:
            shares, tokens = _kept(shares, habits)
        sums = torch.cumsum(shares.double(), dim=-1)
        at = torch.rand((), generator=self._generator, dtype=torch.float64) * sums[-1]
        place = min(int(torch.searchsorted(sums, at, right=True)), len(shares) - 1)
        return place if tokens is None else int(tokens[place])


def _kept(shares: torch.Tensor, habits: Habits) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the likeliest shares, highest first, and their tokens: at most `top_k`, which together reach `top_p`."""
    count = min(habits.top_k or _LIKELIEST, len(shares))
    best, tokens = torch.topk(shares, count)
    if habits.top_p >= 1:
        return best, tokens
    whole = float(best.sum()) if habits.top_k else 1.0
    if not habits.top_k and float(best.sum()) < habits.top_p:
        best, tokens = torch.sort(shares, descending=True, stable=True)
    before = torch.cumsum(best.double(), dim=-1) - best
    kept = max(1, int((before < habits.top_p * whole).sum()))
    return best[:kept], tokens[:kept]
