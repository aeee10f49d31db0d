"""The engine in front of an upstream: dispatches a task, waits for its limits, tries again, and counts the cost."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from atelier_worker.engine import Chat, Context, EngineError, Task
from atelier_worker.engine_options import OptionsError
from atelier_worker.engines.features import no_model, refuse
from atelier_worker.engines.watched import noticing, run_watched

from . import chat, enhance, images
from .cost import Spent, in_words
from .features import PICTURES, TEXTS
from .fetching import Fetcher
from .limits import CHARACTERS_PER_TOKEN, MinuteLimits
from .options import EVERY_MODEL, SERVES, Model, read_options
from .patience import Patience, T
from .upstream import Upstream

_STAGES = {"chat": ("chat",), "enhance": ("enhance",), "images": ("generate",)}
# What a text is taken to become until it is there, where the request sets no limit.
_USUAL_TOKENS = 512
_SAY_S = 1.0
_ASKING = "asking the upstream"
WAITING_FOR_LIMIT = "waiting for the upstream's limit"

Sleep = Callable[[float], Awaitable[None]]


class OpenAIEngine:
    """Chat, enhancement and pictures by a service with an OpenAI-compatible API; the options are in docs/engines.md."""

    name = "openai"

    def __init__(
        self,
        options: Mapping[str, object],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """Read the table of options; nothing is asked of the upstream yet.

        Args:
            options: the table `[[engine]]`.
            clock: seconds that only ever grow, for the limits of a minute.
            sleep: waits so many seconds.
            rng: spreads the waits between tries.

        Raises:
            OptionsError: they cannot be used.
        """
        read = read_options(options)
        self._options = read
        self.concurrency = read.slots
        serves = [kind for model in read.models for kind in model.serves]
        # Nobody asks by name for a model that only enhances.
        names = dict.fromkeys(model.name for model in read.models if model.serves != ("enhance",))
        self.models = () if EVERY_MODEL in names else tuple(names)
        self.stages = tuple(dict.fromkeys(stage for kind in serves for stage in _STAGES[kind]))
        self._upstream = Upstream(read.url, read.key, read.timeouts)
        try:
            self._fetcher = Fetcher(read.url, read.outgoing_allow)
        except ValueError as error:
            raise OptionsError(f"outgoing_allow: {error}.") from None
        self._limits = MinuteLimits(read.requests_per_minute, read.tokens_per_minute, clock)
        self._patience = Patience(attempts=read.attempts)
        self._clock = clock
        self._sleep, self._rng = sleep, rng or random.Random()  # noqa: S311 - it only spreads waits
        self._spent = Spent()

    def counters(self) -> Mapping[str, float]:
        """What was asked and spent since the engine began: requests, tokens, images, cost."""
        return self._spent.sums()

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end; see `Engine.run`."""
        check = noticing(context, _ASKING, self._clock)
        match task.stage:
            case "chat":
                run_watched(self._chat(task, context), check)
            case "enhance":
                run_watched(self._enhance(task, context), check)
            case _:
                run_watched(self._images(task, context), check)

    async def _chat(self, task: Task, context: Context) -> None:
        if task.chat is None:
            raise EngineError("There is no conversation to go on with.")
        model = self._model(task, "chat")

        def write(piece: str) -> bool:
            context.write(piece)
            return True

        reply = await self._converse(model, task.chat, task.seed, context, lambda: write)
        read, written = reply.usage or (None, None)
        context.finish(reply.finish, prompt_tokens=read, completion_tokens=written)

    async def _enhance(self, task: Task, context: Context) -> None:
        # The task names the model that the prompt is meant for.
        model = self._options.first("enhance")
        if model is None:
            self._refuse(task)
            raise EngineError("This worker has no model that enhances prompts.")
        template, asked = enhance.ask_for(task)
        context.log(f"{template.name}, written by the upstream's {model.source}")
        prompts: list[enhance.Prompt] = []

        def writer() -> chat.Write:
            prompts.append(enhance.Prompt(template, context.write))
            return prompts[-1].take

        reply = await self._converse(model, asked, task.seed, context, writer)
        prompt = prompts[-1]
        prompt.end(complete=reply.reason != "length")
        if not prompt.wrote:
            raise EngineError("The upstream wrote no prompt; try again.", retryable=True)
        if prompt.cut:
            context.warn(f"The enhanced prompt was cut: {template.name} keeps it within {template.budget} tokens.")
        reason: Literal["stop", "length"] = "length" if prompt.cut else "stop"
        context.finish(reason, model=model.name, template=template.title, template_version=template.version)

    async def _converse(
        self, model: Model, asked: Chat, seed: int, context: Context, writer: Callable[[], chat.Write]
    ) -> chat.Reply:
        """One text from the upstream, within the limits and with new tries while nothing was written.

        `writer` makes what takes the text, anew for each try.
        """
        body = chat.body_of(model, asked, seed)
        guess = sum(len(message.content) for message in asked.messages) // CHARACTERS_PER_TOKEN + 1
        guess += asked.max_tokens or _USUAL_TOKENS

        async def once() -> chat.Reply:
            passage = await self._limits.enter(guess, lambda wait_s: self._wait(wait_s, context, WAITING_FOR_LIMIT))
            self._spent.add("requests", 1)
            context.progress(0, 1, phase=_ASKING)
            reply = await chat.converse(self._upstream, model, body, writer())
            if reply.usage is not None:
                self._limits.correct(passage, sum(reply.usage))
            return reply

        reply = await self._try(once, context)
        self._count_text(model, reply.usage, context)
        return reply

    def _count_text(self, model: Model, usage: tuple[int, int] | None, context: Context) -> None:
        if usage is None:
            context.log(f"The upstream's {model.source} did not say how many tokens it took.")
            return
        read, written = usage
        cost = model.prices.of_text(read, written)
        self._spent.add("input_tokens", read)
        self._spent.add("output_tokens", written)
        self._spent.add("cost", cost or 0.0)
        context.log(f"The upstream's {model.source} read {read} and wrote {written} tokens{in_words(cost)}.")

    async def _images(self, task: Task, context: Context) -> None:
        model = self._model(task, "images")
        plan = images.plan(task, model)
        for warning in plan.warnings:
            context.warn(warning)
        for indexes in plan.batches:
            await self._batch(task, model, indexes, context)

    async def _batch(self, task: Task, model: Model, indexes: tuple[int, ...], context: Context) -> None:
        """Have one request's pictures made, and deliver them."""

        async def once() -> images.Answer:
            await self._limits.enter(0, lambda wait_s: self._wait(wait_s, context, WAITING_FOR_LIMIT))
            self._spent.add("requests", 1)
            for index in indexes:
                context.progress(0, 1, asset_index=index, phase=_ASKING)
            return await images.ask(self._upstream, model, task, indexes)

        answer = await self._try(once, context)
        self._count_images(model, answer, len(indexes), context)
        for number, index in enumerate(indexes):
            if number >= len(answer.pictures):
                context.fail(index, "The upstream made fewer pictures than it was asked for.", retryable=True)
                continue
            picture = answer.pictures[number]
            data = await self._fetcher.fetch(picture.url) if picture.data is None else picture.data
            context.progress(1, 1, asset_index=index, phase="delivering")
            context.deliver(index, images.save(data, task, model, index, context.workdir))

    def _count_images(self, model: Model, answer: images.Answer, asked: int, context: Context) -> None:
        made = len(answer.pictures)
        costs = [model.prices.of_images(made), model.prices.of_text(*answer.usage) if answer.usage else None]
        known = [cost for cost in costs if cost is not None]
        self._spent.add("images", made)
        self._spent.add("cost", sum(known))
        context.log(
            f"The upstream's {model.source} made {made} of {asked} pictures{in_words(sum(known) if known else None)}."
        )

    def _model(self, task: Task, serves: str) -> Model:
        model = self._options.model(task.model, serves)
        if model is None:
            self._refuse(task)
            raise no_model(task.model, (model.name for model in self._options.models if serves in model.serves))
        return model

    def _refuse(self, task: Task) -> None:
        """Refuse by the table what a model of this name cannot do, since it serves other work."""
        for serves in SERVES:
            model = self._options.model(task.model, serves)
            if model is not None:
                refuse(PICTURES[model.shape] if serves == "images" else TEXTS, task)

    async def _try(self, once: Callable[[], Awaitable[T]], context: Context) -> T:
        return await self._patience.keep_trying(once, lambda wait_s, why: self._wait(wait_s, context, why), self._rng)

    async def _wait(self, wait_s: float, context: Context, why: str) -> None:
        """Wait, and say for what every second: a task that is silent looks like one that hangs."""
        left_s = wait_s
        while left_s > 0:
            context.progress(0, 1, phase=why)
            await self._sleep(min(left_s, _SAY_S))
            left_s -= _SAY_S
