"""One prompt in ComfyUI, from its id to its end: handed in once, followed, and stopped when the job is.

The id of a prompt is made of the stage of the job, the output and the workflow itself. So whoever comes back, after a
cut connection, a lost answer, or as another attempt after a crash, finds what is there already in place of running it
again. An id whose run has failed is used up; the next attempt goes on with the next one.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from atelier_worker.engine import Cancelled, Context, EngineError
from atelier_worker.engines.comfyui_engine import failures, watch
from atelier_worker.engines.comfyui_engine.api import AnswerLost, ComfyApi, NotThere, Place, Refused, State
from atelier_worker.engines.comfyui_engine.previews import small_preview
from atelier_worker.engines.watched import SAY_S
from atelier_worker.task_watch import LOADING
from service_kit.comfy_template import Workflow

_NAMESPACE = uuid.UUID("6f8dd2b4-5a0e-4a55-8d0b-5f4a3c0f7c11")
_MOST_RUNS = 20
_SUBMITS = 3
# Of one prompt that waits several times, taken out at one look: a queue may say anything.
_MOST_DROPS = 4
_LEAST_S = 0.1


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for what, in seconds.

    `reach_s`: for a ComfyUI that cannot be reached; `lost_s`: for a prompt whose answer was lost to show up before it
    is sent again; `look_s`: between looks at the queue while the socket is quiet; `listen_s`: between looks at the
    cancel; `show_s`: between pictures that are shown; `say_s`: before a prompt that runs silently is said to run still;
    `prompt_s`: for one prompt; `stop_s`: for one that was stopped to be gone.
    """

    reach_s: float = 30.0
    lost_s: float = 10.0
    look_s: float = 5.0
    listen_s: float = 0.25
    show_s: float = 0.25
    say_s: float = SAY_S
    prompt_s: float = 3600.0
    stop_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to run: `workflow`, whose nodes `outputs` save, for the output at `index` (None: all) of the stage `key`."""

    name: str
    key: str
    index: int | None
    workflow: Workflow
    outputs: tuple[str, ...]
    steps: int

    def prompt_id(self, number: int) -> str:
        """Return the id of the run of this number: the same for the same work, in any process."""
        digest = hashlib.sha256(json.dumps(self.workflow, sort_keys=True).encode()).hexdigest()
        return str(uuid.uuid5(_NAMESPACE, f"{self.key}/{self.index}/{number}/{digest}"))

    def graph(self, number: int) -> Workflow:
        """Return what is handed in for the run of this number.

        ComfyUI does not run again what it remembers, not even a node whose files were removed since: after the first
        run the nodes that save get another prefix, which alone makes them save again.
        """
        graph = copy.deepcopy(self.workflow)
        for name in self.outputs if number else ():
            prefix = graph[name]["inputs"].get("filename_prefix")
            if isinstance(prefix, str):
                graph[name]["inputs"]["filename_prefix"] = f"{prefix}_{number}"
        return graph


@dataclass(frozen=True, slots=True)
class Done:
    """A run that succeeded, by its number. `found`: it had been there already."""

    number: int
    place: Place
    found: bool


class PromptRun:
    """Runs one order."""

    def __init__(
        self,
        api: ComfyApi,
        order: Order,
        context: Context,
        *,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is sent. `pause` waits for so many seconds."""
        self._api = api.for_task(context.check_cancelled)
        self._to_stop = api
        self._order = order
        self._context = context
        self._patience = patience
        self._clock = clock
        self._pause = pause
        self._step, self._steps, self._phase = 0, max(1, order.steps), ""
        self._shown_at = clock() - patience.show_s
        self._said_at = clock()

    def run(self, first: int = 0) -> Done:
        """Have the work done, beginning with the run number `first`.

        Raises:
            EngineError: it failed.
            Cancelled: the job was cancelled; the prompt is stopped.
        """
        number, prompt_id, place = self._choose(first)
        if place.state is State.ENDED:
            return Done(number, place, found=True)
        heard = watch.Watch(self._api.url, prompt_id, self._clock)
        try:
            if place.state is State.UNKNOWN:
                # Nothing that is said in the beginning should be missed.
                heard.open()
                self._submit(prompt_id, self._order.graph(number))
            ended = self._follow(prompt_id, heard)
        except (Cancelled, _TooLong):
            self._stop(prompt_id)
            raise
        finally:
            heard.close()
        if not ended.succeeded:
            raise failures.failed(self._order.name, ended.messages)
        return Done(number, ended, found=place.state is not State.UNKNOWN)

    # Handing in.

    def _choose(self, first: int) -> tuple[int, str, Place]:
        for number in range(first, first + _MOST_RUNS):
            prompt_id = self._order.prompt_id(number)
            place = self._reach(prompt_id)
            if place.state is not State.ENDED or place.succeeded:
                return number, prompt_id, place
        raise EngineError(f"The workflow {self._order.name} has failed {_MOST_RUNS} times in ComfyUI.")

    def _reach(self, prompt_id: str) -> Place:
        """Find a prompt, and wait for a while for a ComfyUI that is only just starting."""
        end = self._clock() + self._patience.reach_s
        while True:
            try:
                return self._api.find(prompt_id)
            except (NotThere, AnswerLost) as error:
                if self._clock() >= end:
                    raise NotThere from error
                self._context.progress(0, self._steps, asset_index=self._order.index, phase="waiting for ComfyUI")
                self._pause(self._patience.listen_s)

    def _submit(self, prompt_id: str, graph: Workflow) -> None:
        for _ in range(_SUBMITS):
            try:
                taken = self._api.submit(prompt_id, prompt_id, graph)
            except Refused as refusal:
                raise failures.refused(self._order.name, refusal.answer) from refusal
            except NotThere:
                self._reach(prompt_id)
                continue
            except AnswerLost:
                if self._appears(prompt_id):
                    return
                continue
            if taken != prompt_id:
                self._api.drop(taken)
                raise EngineError("This ComfyUI chooses the ids of prompts by itself: it is too old, update it.")
            return
        raise EngineError("ComfyUI does not say whether it took the work.", retryable=True)

    def _appears(self, prompt_id: str) -> bool:
        """Tell whether a prompt whose answer was lost has arrived; it may take a while to be checked there."""
        end = self._clock() + self._patience.lost_s
        while True:
            self._context.check_cancelled()
            if self._look(prompt_id) not in (None, State.UNKNOWN):
                return True
            if self._clock() >= end:
                return False
            self._pause(self._patience.listen_s)

    def _look(self, prompt_id: str) -> State | None:
        try:
            return self._api.find(prompt_id).state
        except (NotThere, AnswerLost):
            return None

    def _drop_doubles(self, prompt_id: str, place: Place) -> None:
        """One whose answer was lost may arrive after all, later than anybody waited for it, beside the next one."""
        for _ in range(min(_MOST_DROPS, place.waiting - (place.state is State.WAITING))):
            self._api.drop(prompt_id)

    # Following.

    def _follow(self, prompt_id: str, heard: watch.Watch) -> Place:
        started = looked = reached = self._clock()
        missed, over = 0, False
        while True:
            self._context.check_cancelled()
            event = heard.next(self._patience.listen_s)
            now = self._clock()
            if now - started > self._patience.prompt_s:
                raise _TooLong(self._order.name, self._patience.prompt_s)
            ends = isinstance(event, watch.Over) and not over
            over = over or ends
            if event is not None and not isinstance(event, watch.Over):
                self._tell(event, now)
            # By the clock, however much is said meanwhile; only the first word of an end is acted on at once.
            every = self._patience.look_s if heard.connected and not over else self._patience.listen_s
            if not ends and now - looked < every:
                continue
            looked = now
            try:
                place = self._api.find(prompt_id)
                self._drop_doubles(prompt_id, place)
            except (NotThere, AnswerLost) as error:
                if now - reached > self._patience.reach_s:
                    raise NotThere from error
                continue
            reached = now
            if place.state is State.ENDED:
                return place
            missed = missed + 1 if place.state is State.UNKNOWN else 0
            if missed > 1:
                raise EngineError("ComfyUI was started anew, or its queue cleared: the work is gone.", retryable=True)
            if place.state is State.WAITING:
                self._phase = "waiting in ComfyUI's queue"
                self._say()
            elif now - self._said_at >= self._patience.say_s:
                # A node may be silent for longer than a worker waits for an engine; `prompt_s` is what ends it.
                self._say()

    def _tell(self, event: watch.Event, now: float) -> None:
        if isinstance(event, watch.Step):
            self._step, self._steps = event.value, max(1, event.most)
        elif isinstance(event, watch.Entered):
            kind = str(self._order.workflow.get(event.node, {}).get("class_type", ""))
            # What loads weights may be silent for longer than what works.
            self._phase = f"{LOADING} {kind}" if "Loader" in kind else kind
        elif isinstance(event, watch.Picture):
            if now - self._shown_at < self._patience.show_s:
                return
            picture = small_preview(event.data)
            self._shown_at = now
            if picture is not None:
                self._context.preview(self._order.index or 0, *picture)
            return
        self._say()

    def _say(self) -> None:
        self._said_at = self._clock()
        self._context.progress(self._step, self._steps, asset_index=self._order.index, phase=self._phase)

    # Stopping.

    def _stop(self, prompt_id: str) -> None:
        """Take the prompt out of the queue, or stop it; only this one, and until it is gone or nobody answers."""
        end = self._clock() + self._patience.stop_s
        while True:
            # The job has ended for everybody else, so nothing of it may be waited for longer than this.
            api = self._to_stop.within(max(_LEAST_S, end - self._clock()))
            try:
                place = api.find(prompt_id)
                if place.waiting:
                    api.drop(prompt_id)
                elif place.state is State.RUNNING:
                    api.interrupt(prompt_id)
                else:
                    return
            except EngineError:
                if self._clock() >= end:
                    return
            if self._clock() >= end:
                return
            self._pause(self._patience.listen_s / 5)


class _TooLong(EngineError):
    def __init__(self, name: str, limit_s: float) -> None:
        super().__init__(f"The workflow {name} took longer than {limit_s:g} seconds, the limit of this worker.")
