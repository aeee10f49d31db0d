"""Which models an engine keeps in memory: admitted when the device will hold them, evicted by least use.

A task says what it works with on top of the weights. Nothing is loaded on a guess that it may fit: what is needed is
compared with what the device has free, less what tasks that run, here and in other processes, were promised and have
not taken yet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from atelier_worker.engine import Context, DeviceRoom, EngineError, LoadedModel
from atelier_worker.engines.residency.device_memory import DeviceMemory, whole_name
from atelier_worker.engines.residency.errors import NotEnoughMemory
from atelier_worker.engines.residency.out_of_memory import is_out_of_memory, let_go, may_wait_for_memory
from atelier_worker.promises import Promises, promises_of
from service_kit.units import sized

T = TypeVar("T")
MEMORY_WAIT_S = 30.0
WAITING = "waiting for memory"
_LOOK_AGAIN_S = 0.25  # a context cannot wake a thread when its job is cancelled
_tell: ContextVar[Callable[[int, int], None] | None] = ContextVar("atelier_loading", default=None)


def tell_part(part: int, parts: int) -> None:
    """Say, inside of a `load`, that `part` of `parts` is there; raises `Cancelled` when the job was cancelled."""
    tell = _tell.get()
    if tell is not None:
        tell(part, parts)


@dataclass(slots=True)
class _Entry(Generic[T]):
    name: str
    load: Callable[[], T]
    weights_bytes: int
    model: T | None = None
    loaded: bool = False
    loading: bool = False
    pins: int = 0
    used_at: int = 0
    # By how much a task took more than its estimate, at worst.
    excess_bytes: int = 0


class Residency(Generic[T]):
    """The models of one engine on one device. Every method may be called from any thread."""

    def __init__(
        self,
        memory: DeviceMemory,
        device: str,
        limit_bytes: int | None = None,
        *,
        memory_wait_s: float = MEMORY_WAIT_S,
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[threading.Condition, float], object] = threading.Condition.wait,
        promises: Promises | None = None,
    ) -> None:
        """Keep at most `limit_bytes` of weights and working memory on `device` (None: what it has).

        A task waits at most `memory_wait_s` for memory that somebody else holds. `promises` are those of the device;
        by default the ones that the worker shares.
        """
        self._memory = memory
        self._device = whole_name(device)
        self._limit_bytes = limit_bytes
        self._memory_wait_s = memory_wait_s
        self._now = now
        self._pause = pause
        self._promises = promises or promises_of(self._device)
        self._others_bytes = 0
        self._changed = threading.Condition()
        self._entries: dict[str, _Entry[T]] = {}
        self._working_bytes = 0
        self._uses = 0
        self._asked = False
        self._starts = 0

    def register(self, name: str, *, load: Callable[[], T], weights_bytes: int) -> None:
        """Say how a model comes into memory, and how many bytes its weights take on the device.

        `load` is called when a task needs the model, never twice at once. What it returns must be held by nobody else,
        or an eviction frees nothing. It may call `tell_part`.
        """
        with self._changed:
            if name in self._entries:
                raise ValueError(f"model {name} is registered already")
            self._entries[name] = _Entry(name, load, weights_bytes)

    @contextmanager
    def use(self, name: str, context: Context, *, working_bytes: int) -> Iterator[T]:
        """Hold a model while a task works with it, with `working_bytes` beside its weights.

        Evicts idle models, asks other engines for room, and waits a while, in this order and only as far as needed.
        A model that is not there is loaded, as progress with the phase `loading NAME`. Keep no reference to the model
        after the block: it may be evicted.

        Raises:
            NotEnoughMemory: the device does not hold it; not retryable when it never will.
            Cancelled: the job was cancelled while this waited or loaded.
            EngineError: no such model.
        """
        entry = self._entry(name)
        self._asked = True
        admitted_bytes = working_bytes + entry.excess_bytes
        self._admit(entry, context, admitted_bytes)
        try:
            if entry.loading:
                self._load(entry, context, admitted_bytes)
            with self._measured(entry, working_bytes):
                yield cast(T, entry.model)
        finally:
            with self._changed:
                entry.pins -= 1
                self._working_bytes -= admitted_bytes
                self._uses += 1
                entry.used_at = self._uses
                self._promises.keep(self._untaken_bytes())
                self._changed.notify_all()

    def loaded(self) -> list[LoadedModel]:
        """Return what is in memory, the most recently used last."""
        with self._changed:
            there = sorted((entry for entry in self._entries.values() if entry.loaded), key=lambda e: e.used_at)
            return [LoadedModel(entry.name, self._device, entry.weights_bytes) for entry in there]

    def device_room(self) -> DeviceRoom | None:
        """Return what the device has free; None until a task wants a model: on a GPU the question takes some itself."""
        if not self._asked:
            return None
        with self._changed:
            # This is asked every few seconds: what tasks have taken by now is free memory no more, and no promise.
            self._promises.keep(self._untaken_bytes())
        return DeviceRoom(self._device, self._memory.free_bytes(), self._memory.total_bytes())

    def give_room(self, device: str, wanted_bytes: int) -> int:
        """Evict models that no task uses until `wanted_bytes` are free; return the bytes that they took."""
        if whole_name(device) != self._device:
            return 0
        with self._changed:
            return self._evict(lambda freed: freed >= wanted_bytes)

    def _entry(self, name: str) -> _Entry[T]:
        with self._changed:
            entry = self._entries.get(name)
            if entry is None:
                raise EngineError(f'no model is called "{name}" here; there are: {", ".join(sorted(self._entries))}')
            return entry

    def _admit(self, entry: _Entry[T], context: Context, working_bytes: int) -> None:
        """Pin a model and count its memory, or raise; `entry.loading` then says that this task loads it."""
        deadline: float | None = None
        while True:
            context.check_cancelled()
            with self._promises.turn(context.check_cancelled) as others_bytes, self._changed:
                self._others_bytes = others_bytes
                another_loads = entry.loading
                lacking = 0 if another_loads else self._take(entry, working_bytes)
            if lacking is None:
                return
            if another_loads:
                context.progress(0, 1, phase=f"loading {entry.name}")
            elif lacking > 0 and context.make_room(self._device, lacking) > 0:
                continue
            else:
                if deadline is None:
                    deadline = self._now() + (self._memory_wait_s if may_wait_for_memory() else 0)
                if self._now() >= deadline:
                    raise self._refusal(entry, working_bytes)
                context.progress(0, 1, phase=WAITING)
            with self._changed:
                self._pause(self._changed, _LOOK_AGAIN_S)

    def _take(self, entry: _Entry[T], working_bytes: int) -> int | None:
        """Count a task in and return None, or return how many bytes the device lacks. Under the lock.

        It lacks none (0) where only the engine's own limit is in the way.
        """
        self._refuse_what_never_fits(entry, working_bytes)
        needed = working_bytes + (0 if entry.loaded else entry.weights_bytes)
        idle = sum(other.weights_bytes for other in self._idle() if other is not entry)
        if needed > self._available() + idle:
            return max(0, needed - self._free() - idle)
        entry.pins += 1  # so that it is not evicted for itself
        self._evict(lambda _: self._available() >= needed)
        if needed > self._available():  # what was evicted gave back less than it took
            entry.pins -= 1
            return max(0, needed - self._free())
        self._working_bytes += working_bytes
        entry.loading = not entry.loaded
        self._promises.keep(self._untaken_bytes())
        return None

    @contextmanager
    def _measured(self, entry: _Entry[T], working_bytes: int) -> Iterator[None]:
        """Learn from a task that ran alone how far its estimate was too low."""
        with self._changed:
            self._starts += 1
            started = self._starts
            before = self._memory.used_bytes() if self._pins() == 1 else None
            if before is not None:
                self._memory.start_peak()
        yield
        with self._changed:
            peak = self._memory.peak_bytes()
            if before is not None and peak is not None and started == self._starts:
                entry.excess_bytes = max(entry.excess_bytes, peak - before - working_bytes)

    def _pins(self) -> int:
        return sum(entry.pins for entry in self._entries.values())

    def _load(self, entry: _Entry[T], context: Context, working_bytes: int) -> None:
        before = self._memory.used_bytes()
        token = _tell.set(lambda part, parts: self._tell_part(entry, context, part, parts))
        try:
            context.progress(0, 1, phase=f"loading {entry.name}")
            model = entry.load()
        except BaseException as error:
            no_room = is_out_of_memory(error)
            let_go(error)
            with self._changed:
                self._loaded(entry, None, before)
            self._memory.release()
            if no_room:
                raise self._refusal(entry, working_bytes) from None
            raise
        finally:
            _tell.reset(token)
        with self._changed:
            self._loaded(entry, model, before)
        context.progress(1, 1, phase=f"loading {entry.name}")

    def _tell_part(self, entry: _Entry[T], context: Context, part: int, parts: int) -> None:
        with self._changed:
            self._promises.keep(self._untaken_bytes())
        context.progress(part, parts, phase=f"loading {entry.name}")

    def _loaded(self, entry: _Entry[T], model: T | None, used_before: int | None) -> None:
        entry.loading = False
        entry.model = model
        entry.loaded = model is not None
        after = self._memory.used_bytes()
        if model is not None and self._pins() == 1 and after is not None and used_before is not None:
            entry.weights_bytes = max(entry.weights_bytes, after - used_before)
        self._promises.keep(self._untaken_bytes())
        self._changed.notify_all()

    def _idle(self) -> list[_Entry[T]]:
        there = [entry for entry in self._entries.values() if entry.loaded and entry.pins == 0]
        return sorted(there, key=lambda entry: entry.used_at)

    def _evict(self, enough: Callable[[int], bool]) -> int:
        """Drop idle models, the least recently used first, until `enough(freed)`; return the bytes. Under the lock."""
        freed = 0
        for entry in self._idle():
            if enough(freed):
                break
            entry.model = None
            entry.loaded = False
            freed += entry.weights_bytes
            self._memory.release()
        if freed:
            self._changed.notify_all()
        return freed

    def _available(self) -> int:
        """Return what one more task may take. Under the lock."""
        if self._limit_bytes is None:
            return self._free()
        return min(self._free(), self._limit_bytes - self._loaded_bytes() - self._promised_bytes())

    def _free(self) -> int:
        """Return what the device has free, less what tasks were promised and have not taken yet, here and elsewhere."""
        mine = self._promised_bytes() - self._taken_bytes(self._memory.used_bytes())
        return self._memory.free_bytes() - self._others_bytes - max(0, mine)

    def _untaken_bytes(self) -> int:
        """Return what tasks were promised and other processes still see as free. Under the lock."""
        return max(0, self._promised_bytes() - self._taken_bytes(self._memory.held_bytes()))

    def _taken_bytes(self, here: int | None) -> int:
        """Return what tasks have taken, of all that is `here`; nothing where nobody counts it."""
        return 0 if here is None else max(0, here - self._loaded_bytes())

    def _loaded_bytes(self) -> int:
        return sum(entry.weights_bytes for entry in self._entries.values() if entry.loaded)

    def _promised_bytes(self) -> int:
        return self._working_bytes + sum(entry.weights_bytes for entry in self._entries.values() if entry.loading)

    def _refuse_what_never_fits(self, entry: _Entry[T], working_bytes: int) -> None:
        total = self._memory.total_bytes()
        most = total if self._limit_bytes is None else min(total, self._limit_bytes)
        if entry.weights_bytes + working_bytes <= most:
            return
        if most == total:
            has = f"which has {sized(total)} in all"
        else:
            has = f"of which this engine's memory_limit gives it {sized(most)}"
        raise NotEnoughMemory(
            f"{_needs(entry, working_bytes)} on {self._device}, {has}; ask for a smaller size or fewer outputs at once"
        )

    def _refusal(self, entry: _Entry[T], working_bytes: int) -> NotEnoughMemory:
        with self._changed:
            held = [
                f"{other.name} {sized(other.weights_bytes)}"
                for other in self._entries.values()
                if other.loaded and other is not entry
            ]
            if self._working_bytes:
                held.append(f"running tasks {sized(self._working_bytes)}")
            available = max(0, self._available())
        limit = "" if self._limit_bytes is None else f" (memory_limit is {sized(self._limit_bytes)})"
        others = f"other engines were promised {sized(self._others_bytes)}, " if self._others_bytes else ""
        return NotEnoughMemory(
            f"{_needs(entry, working_bytes)} on {self._device}; {sized(available)} of "
            f"{sized(self._memory.total_bytes())} are free for it{limit}, {others}and this engine holds "
            f"{', '.join(held) or 'nothing else'}; try again later",
            retryable=True,
        )


def _needs(entry: _Entry[T], working_bytes: int) -> str:
    whole = entry.weights_bytes + working_bytes
    return (
        f"{entry.name} needs {sized(whole)} ({sized(entry.weights_bytes)} of weights, "
        f"{sized(working_bytes)} to work with)"
    )
