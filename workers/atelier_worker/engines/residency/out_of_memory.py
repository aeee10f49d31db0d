"""What happens when the device is out of memory in the middle of a task: what was held is freed, and less is tried."""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar

from atelier_worker.engine import Context
from atelier_worker.engines.residency.device_memory import free_unused
from atelier_worker.engines.residency.errors import NotEnoughMemory

T = TypeVar("T")
_less_can_be_tried: ContextVar[bool] = ContextVar("atelier_less_can_be_tried", default=False)
_log = logging.getLogger(__name__)
_WORDS = (  # of allocators and libraries that raise a plain RuntimeError
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)
# "you tried to allocate 1024 bytes" (the CPU), "Tried to allocate 20.00 GiB" (CUDA).
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Attempt(Generic[T]):
    """One way to do a task. `name` completes the sentence "… was made with NAME": `a smaller batch`."""

    name: str
    run: Callable[[], T]


def may_wait_for_memory() -> bool:
    """Tell whether waiting is all that is left: inside of an attempt that another one follows it is not."""
    return not _less_can_be_tried.get()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device, or the machine, had no memory left."""
    if isinstance(error, NotEnoughMemory | MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _WORDS)


def asks_for_more(error: BaseException, size_bytes: int) -> bool:
    """Tell whether what there was no memory for is one piece of more than `size_bytes`, as far as the error says it.

    Nothing that is loaded is larger than all of its files; what asks for more was told so by a file that is damaged.
    """
    match = _ASKED.search(str(error))
    if match is None:
        return False
    return float(match[1]) * _UNITS[match[2]] > size_bytes


def let_go(error: BaseException) -> None:
    """Forget the locals of the frames that an error came through: they hold the tensors of the step that failed."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        queue += [each.__context__, each.__cause__]


def survive_out_of_memory(context: Context, attempts: Sequence[Attempt[T]]) -> T:
    """Run the first of `attempts`; where memory runs out, free what it held and run the next one.

    A warning on the job says which one it was made with. `NotEnoughMemory` counts as running out, so that a smaller
    batch is tried where a large one is not admitted; only the last attempt waits for memory.

    Raises:
        NotEnoughMemory: the last attempt ran out as well; retryable when it ran out in the middle of its work.
    """
    if not attempts:
        raise ValueError("there must be an attempt")
    refusal = NotEnoughMemory("", retryable=True)
    for number, attempt in enumerate(attempts):
        token = _less_can_be_tried.set(number + 1 < len(attempts))
        try:
            made = attempt.run()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            let_go(error)
            _log.warning("out_of_memory attempt=%s error=%s", attempt.name, str(error)[:500])
            refusal = _refusal(error, attempts[: number + 1])
        else:
            if number:
                context.warn(f"The device ran out of memory; this was made with {attempt.name}.")
            return made
        finally:
            _less_can_be_tried.reset(token)
        # Only here, after the handler, does nothing refer to the error and what it came through.
        free_unused()
        context.check_cancelled()
    raise refusal


def _refusal(error: BaseException, tried: Sequence[Attempt[T]]) -> NotEnoughMemory:
    if isinstance(error, NotEnoughMemory):
        return NotEnoughMemory(str(error), retryable=error.retryable)
    names = ", ".join(attempt.name for attempt in tried)
    return NotEnoughMemory(
        f"The device ran out of memory in the middle of the work (tried: {names}); try again later, or ask for a "
        "smaller size or fewer outputs at once.",
        retryable=True,
    )
