"""The engine that draws: dispatches a task to pictures, video, enhancement or conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from PIL import Image

from atelier_worker.engine import Context, Task
from atelier_worker.engine_options import Options
from atelier_worker.engines import files

from . import image
from .pace import pause

DEFAULT_STEP_DELAY = 0.05
_LONGEST_STEP_DELAY_S = 60.0


class SketchEngine:
    """Pictures, videos, richer prompts and small talk from word lists and a paint box; the same seed gives the same.

    The option `step_delay` is the time that one step takes at least, such as `50ms`, which it is by default.
    """

    name = "sketch"
    concurrency = 4
    stages = ("generate", "enhance", "chat")

    def __init__(self, options: Mapping[str, object]) -> None:
        given = Options(options, where=f"[[engine]] {options.get('name', self.name)}")
        self._step_delay = given.duration_s("step_delay", DEFAULT_STEP_DELAY, may_be_zero=True)
        if self._step_delay > _LONGEST_STEP_DELAY_S:
            raise given.wrong("step_delay", f"takes at most {_LONGEST_STEP_DELAY_S:g}s, got {self._step_delay:g}s.")
        given.done()

    def run(self, task: Task, context: Context) -> None:
        """Run one stage to its end; see `Engine.run`."""
        for sentence in _unknown(task):
            context.warn(sentence)
        if task.stage == "enhance":
            from . import enhance

            enhance.run(task, context, self._step_delay)
        elif task.stage == "chat":
            from . import chat

            chat.run(task, context, self._step_delay)
        elif task.format == "video":
            # The video library takes as much memory as all the rest: it is loaded only by who makes videos.
            from . import video

            video.run(task, context, self._step_delay)
        else:
            self._images(task, context)

    def _images(self, task: Task, context: Context) -> None:
        for index in task.indexes:
            # Before the first stroke, so that whoever watches sees at once that it has begun.
            context.progress(0, task.steps, asset_index=index, phase="sketching")
            picture = image.render(task, task.seed + index, self._watcher(task, context, index))
            folder = context.workdir / f"asset-{index}"
            folder.mkdir()
            made_with = files.made_with(task, task.seed + index, self.name)
            path, renditions = files.save_picture(picture, folder, made_with)
            context.check_cancelled()
            context.deliver(index, path, renditions=renditions)

    def _watcher(self, task: Task, context: Context, index: int) -> image.OnStep:
        def on_step(step: int, look: Callable[[], Image.Image]) -> None:
            context.progress(
                step, task.steps, asset_index=index, phase="painting" if step < task.steps else "finishing"
            )
            context.preview(index, image.preview_bytes(look()), "image/webp")
            pause(self._step_delay, context)

        return on_step


def _unknown(task: Task) -> Iterator[str]:
    """What a task asks for that this engine does without, in a sentence for each."""
    if task.guidance is not None:
        yield f"The sketch engine knows no guidance: it draws without the {task.guidance:g} that was asked for."
    if task.scheduler:
        yield f"The sketch engine knows no schedulers: it draws without {task.scheduler}."
    if task.loras:
        yield f"The sketch engine knows no LoRAs: it draws without {', '.join(lora.name for lora in task.loras)}."
    if any(reference.kind == "last_frame" for reference in task.references):
        yield "The sketch engine knows no last frame: its video ends as it likes."
