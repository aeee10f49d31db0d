"""One model, many conversations: a loop that makes the next token of all of them in one step.

A row is one conversation that goes on. New rows are read in alone, a piece of the prompt between two steps of the
others, and then join them; a row leaves when it ends, is cancelled or fails. The loop's thread lives as long as there
are rows, and frees their keys and values when it ends.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from atelier_worker.engine import EngineError
from atelier_worker.engines.residency import NotEnoughMemory, free_unused, is_out_of_memory
from atelier_worker.engines.residency.out_of_memory import let_go
from service_kit.units import sized

from .keys import BLOCK, KeyValues, blocks
from .sampling import Habits, NotNumbers, Sampler
from .steady import steady_step

# So many tokens of new prompts are read between two steps of the others.
PROMPT_PIECE = 512
# How often a waiting row looks whether it was cancelled.
_LOOK_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Ask:
    """One text to make: it ends before a token of `ends`, or after `most` tokens."""

    prompt: Sequence[int]
    most: int
    habits: Habits
    seed: int
    ends: frozenset[int]
    cancelled: Callable[[], bool]


@dataclass(eq=False, slots=True)
class _Row:
    ask: Ask
    sampler: Sampler
    events: queue.Queue[int | EngineError | Literal["stop", "length"]]
    gone: bool = False
    token: int = -1  # the last one, which the next step reads
    made: int = 0
    number: int = 0  # the newest has the highest
    keys: KeyValues | None = None  # while the prompt is read

    @property
    def total(self) -> int:
        return len(self.ask.prompt) + self.ask.most

    @property
    def wanted(self) -> bool:
        if not self.gone and self.ask.cancelled():
            self.gone = True
        return not self.gone


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a model decides how much memory a conversation takes: `token_bytes` for each of its tokens."""

    layers: int
    token_bytes: int

    def bytes_of(self, tokens: int) -> int:
        """Return what the keys and values of one row of so many tokens take."""
        return blocks(tokens) * self.token_bytes


class Decoder:
    """Runs the rows of one model, at most `slots` at once and with at most `memory_bytes` of keys and values."""

    def __init__(self, model: Any, shape: Shape, *, device: str, slots: int, memory_bytes: int, steady: bool) -> None:
        """Run `model`, which is on `device` and is used by nobody else; `steady` if it was made so (`make_steady`)."""
        self._model = model
        self._shape = shape
        self._device = device
        self._slots = slots
        self._steady = steady
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._waiting: list[_Row] = []
        self._running = False
        self._count = 0
        # What only the loop's thread touches.
        self._reading: _Row | None = None
        self._rows: list[_Row] = []
        self._keys = KeyValues(self._shape.layers)

    def tokens(self, ask: Ask) -> Generator[int | Literal["stop", "length"]]:
        """Yield tokens as they are made and at last why the text ends. A caller that closes this gives the row up.

        Raises:
            EngineError: the row failed.
        """
        total = len(ask.prompt) + ask.most
        if (need := self._shape.bytes_of(total)) > self._memory_bytes:
            raise EngineError(
                f"The conversation may grow to {total} tokens, which take {sized(need)} of memory; this worker has "
                f"{sized(self._memory_bytes)} for it (cache_memory). Ask for fewer max_tokens."
            )
        row = _Row(ask, Sampler(ask.habits, ask.seed, torch.tensor(list(ask.prompt))), queue.Queue(ask.most + 2))
        self._submit(row)
        try:
            while True:
                event = self._next(row)
                if isinstance(event, EngineError):
                    raise event
                yield event
                if isinstance(event, str):
                    return
        finally:
            row.gone = True

    def _next(self, row: _Row) -> int | EngineError | Literal["stop", "length"]:
        while True:
            try:
                return row.events.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                # Raises through the caller's own check: the loop drops the row by itself.
                if row.ask.cancelled():
                    return "stop"

    def _submit(self, row: _Row) -> None:
        with self._lock:
            self._waiting.append(row)
            if not self._running:
                self._running = True
                threading.Thread(target=self._loop, name="decoder").start()

    def _loop(self) -> None:
        while True:
            try:
                with torch.inference_mode():
                    while self._turn():
                        pass
            except Exception as error:  # noqa: BLE001 - whatever a model raises fails the rows in it, not the loop
                _report(error)
                self._fail_all(_failure(error))
            with self._lock:
                if not self._waiting:
                    self._keys = KeyValues(self._shape.layers)
                    self._running = False
                    return

    def _turn(self) -> bool:
        """Drop who is gone, read a piece of a new prompt, make a token for every row; False when nobody is left."""
        for place in range(len(self._rows) - 1, -1, -1):
            if not self._rows[place].wanted:
                self._drop(place)
        left = PROMPT_PIECE
        while left > 0 and (row := self._next_to_read()) is not None:
            left -= self._read(row)
        if self._rows:
            self._step()
        return bool(self._rows or self._reading)

    def _next_to_read(self) -> _Row | None:
        """Return the row whose prompt is read, or the next one that there is room for; None when there is none."""
        if self._reading is not None and not self._reading.wanted:
            self._reading = None
        with self._lock:
            self._waiting = [row for row in self._waiting if row.wanted]
            if self._reading is None and self._waiting and self._fits(self._waiting[0]):
                self._reading = self._waiting.pop(0)
                self._count += 1
                self._reading.number = self._count
                self._reading.keys = KeyValues(self._shape.layers)
        return self._reading

    def _fits(self, row: _Row) -> bool:
        """Rows are as long as the longest of them, in one tensor. A row alone was found to fit before."""
        rows = [*self._rows, row]
        longest = max(one.total for one in rows)
        need = len(rows) * self._shape.bytes_of(longest + BLOCK)
        return len(rows) == 1 or (len(rows) <= self._slots and need <= self._memory_bytes)

    def _read(self, row: _Row) -> int:
        """Read the next piece of a row's prompt, and have the row join the others after the last one.

        Pieces have the same size whoever else is there, so that what is read is the same to the last bit. Returns how
        many tokens were read.
        """
        keys = row.keys
        if keys is None:
            raise RuntimeError("a row is read without room for it")
        if not keys.lengths:
            keys.lengths = [0]
        done = keys.end
        piece = list(row.ask.prompt[done : done + PROMPT_PIECE])
        try:
            positions = torch.arange(done, done + len(piece)).unsqueeze(0)
            logits = self._logits(keys, torch.tensor([piece]), positions)
            if keys.end < len(row.ask.prompt):
                return len(piece)
            self._reading = None
            if self._take(row, logits[0]):
                self._keys.join(keys)
                self._rows.append(row)
        except Exception as error:  # noqa: BLE001 - a row that cannot be read in fails alone
            _report(error)
            self._reading = None
            _tell(row, _failure(error))
        finally:
            if self._reading is None:
                row.keys = None
        return len(piece)

    def _step(self) -> None:
        tokens = torch.tensor([[row.token] for row in self._rows])
        positions = torch.tensor([[length] for length in self._keys.lengths])
        try:
            logits = self._step_logits(tokens, positions)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # The newest row gives way, and the others make this token in the next turn.
            let_go(error)
            place = max(range(len(self._rows)), key=lambda one: self._rows[one].number)
            _tell(self._rows[place], _failure(error))
            self._drop(place)
            free_unused()
            return
        for place in range(len(self._rows) - 1, -1, -1):
            if not self._take(self._rows[place], logits[place]):
                self._drop(place)

    def _step_logits(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return [rows, vocabulary] for the next token of every row."""
        if not self._steady:
            return self._logits(self._keys, tokens, positions, mask=self._keys.mask(1).to(self._device))
        empty = torch.zeros((self._slots - len(tokens), 1), dtype=torch.long)
        with steady_step(self._keys.lengths):
            return self._logits(self._keys, torch.cat([tokens, empty]), torch.cat([positions, empty]))

    def _logits(
        self, keys: KeyValues, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        new = tokens.shape[1]
        out = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=mask,
            position_ids=positions.to(self._device),
            past_key_values=keys.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = out.logits[: len(keys.lengths), -1, :].float().cpu()
        keys.advance(new)
        return logits

    def _take(self, row: _Row, logits: torch.Tensor) -> bool:
        """Choose a row's next token and send it; False when the row ends."""
        try:
            token = row.sampler.choose(logits)
        except NotNumbers:
            _tell(
                row,
                EngineError(
                    f"The model's numbers became NaN after {row.made} tokens. Its weights may be damaged, or its dtype "
                    "too narrow: use bfloat16 or float32."
                ),
            )
            return False
        row.token = token
        if token in row.ask.ends:
            _tell(row, "stop")
            return False
        row.made += 1
        _tell(row, token)
        if row.made >= row.ask.most:
            _tell(row, "length")
            return False
        return True

    def _drop(self, place: int) -> None:
        self._keys.leave(place)
        self._rows[place] = self._rows[-1]
        self._rows.pop()
        if not self._rows:
            self._keys = KeyValues(self._shape.layers)

    def _fail_all(self, why: EngineError) -> None:
        for row in [*self._rows, *([self._reading] if self._reading else ())]:
            _tell(row, why)
        self._rows, self._reading, self._keys = [], None, KeyValues(self._shape.layers)
        free_unused()


def _tell(row: _Row, event: int | EngineError | Literal["stop", "length"]) -> None:
    # There is a place for every token of the row and for its end: this never waits.
    row.events.put_nowait(event)


def _report(error: BaseException) -> None:
    """Write where it happened for the operator, and forget what the frames hold: tensors, where memory ran out."""
    traceback.print_exception(error)
    let_go(error)


def _failure(error: BaseException) -> EngineError:
    if is_out_of_memory(error):
        return NotEnoughMemory("The device has no memory left for this conversation; try again later.", retryable=True)
    return EngineError(f"The model failed with {type(error).__name__}; the worker's log says where.", retryable=True)
