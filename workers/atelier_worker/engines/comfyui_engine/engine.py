"""The engine: its options, and a task as one prompt for each output."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from atelier_worker.engine import Context, EngineError, Task
from atelier_worker.engine_options import Options
from atelier_worker.engines.comfyui_engine import filling
from atelier_worker.engines.comfyui_engine.api import ComfyApi, Saved
from atelier_worker.engines.comfyui_engine.filling import Model
from atelier_worker.engines.comfyui_engine.outputs import Gone, fetch_picture, fetch_video, saved_files
from atelier_worker.engines.comfyui_engine.prompt_run import Done, Order, Patience, PromptRun
from atelier_worker.engines.comfyui_engine.references import send_references
from atelier_worker.engines.features import no_model
from atelier_worker.engines.files import made_with
from service_kit.comfy_template import TemplateError, read_template

_ANY = "*"
_MOST_REMOVED = 2
_OUTPUT_LIMIT_BYTES = 1024**3
_URL = "http://127.0.0.1:8188"


class ComfyEngine:
    """Runs each output of a task as one prompt in a ComfyUI; templates that batch run one for all."""

    name = "comfyui"
    stages = ("generate",)

    def __init__(self, options: Mapping[str, object], *, patience: Patience | None = None) -> None:
        """Read the options: `url`, `models` (`name`, `template`, `lora_names`), limits. Nothing is sent yet."""
        read = Options(options, where="[[engine]] " + str(options.get("name", "comfyui")))
        url = read.text("url", _URL)
        own = patience or Patience()
        # One prompt runs in ComfyUI while the files of another one are on their way.
        self.concurrency = read.integer("slots", 2, least=1)
        timeout_s = read.duration_s("timeout", 30.0)
        self._patience = replace(
            own,
            reach_s=read.duration_s("reach_timeout", own.reach_s),
            prompt_s=read.duration_s("prompt_timeout", own.prompt_s),
        )
        self._limit_bytes = read.size_bytes("output_limit", _OUTPUT_LIMIT_BYTES)
        self._models = {model.name: model for model in map(_model, read.tables("models"))}
        if not self._models:
            raise read.wrong("models", "is empty: give it a name and a template made with `atelier comfy import`.")
        read.done()
        try:
            self._api = ComfyApi(url, timeout_s=timeout_s)
        except ValueError as error:
            raise read.wrong("url", f"cannot be used: {error}.") from error
        self.models = tuple(name for name in self._models if name != _ANY)

    def run(self, task: Task, context: Context) -> None:
        """Run a task.

        Raises:
            Cancelled: it was cancelled; nothing of it runs in ComfyUI any more.
            EngineError: it failed.
        """
        model = self._models.get(task.model) or self._models.get(_ANY)
        if model is None:
            raise no_model(task.model, self.models)
        filling.check(model, task)
        filling.warn(model, task, context)
        api = self._api.for_task(context.check_cancelled)
        pictures = send_references(api, model.template, task.references)
        key = task.stage_key or uuid.uuid4().hex
        if model.template.batches:
            workflow = model.template.filled(filling.values_of(model, task, task.seed, len(task.indexes), pictures))
            order = Order(model.name, key, None, workflow, model.template.outputs, task.steps)
            self._deliver(model, task, context, order, task.indexes)
            return
        for index in task.indexes:
            workflow = model.template.filled(filling.values_of(model, task, task.seed + index, 1, pictures))
            order = Order(model.name, key, index, workflow, model.template.outputs, task.steps)
            self._deliver(model, task, context, order, (index,))

    def _deliver(self, model: Model, task: Task, context: Context, order: Order, indexes: tuple[int, ...]) -> None:
        run = PromptRun(self._api, order, context, patience=self._patience)
        done = run.run()
        for _ in range(_MOST_REMOVED):
            try:
                self._bring(model, task, context, done, indexes)
                return
            except Gone:
                # It was made once, for this job or another one, and has been removed there since.
                done = run.run(done.number + 1)
        raise EngineError("ComfyUI does not have what it says that it saved.", retryable=True)

    def _bring(self, model: Model, task: Task, context: Context, done: Done, indexes: tuple[int, ...]) -> None:
        saved = saved_files(model.template, done.place.outputs)
        if not saved:
            raise EngineError(f"The workflow {model.name} ended without an output.")
        if len(saved) > len(indexes):
            context.warn(f"The workflow {model.name} made {len(saved)} outputs; the first {len(indexes)} were taken.")
        fetched = {
            index: self._fetch(model, task, context, one, index) for index, one in zip(indexes, saved, strict=False)
        }
        for index in indexes:
            if index in fetched:
                context.deliver(index, fetched[index])
            else:
                context.fail(index, f"The workflow {model.name} made {len(saved)} of {len(indexes)} outputs.")

    def _fetch(self, model: Model, task: Task, context: Context, saved: Saved, index: int) -> Path:
        made = made_with(task, task.seed + index, self.name, {"workflow": model.name})
        api, longest_s = self._api.for_task(context.check_cancelled), self._patience.prompt_s
        limit_bytes = self._limit_bytes
        if task.format == "video":
            target = context.workdir / f"{index}.mp4"
            size = fetch_video(api, saved, target, made=made, limit_bytes=limit_bytes, longest_s=longest_s)
        else:
            target = context.workdir / f"{index}.png"
            size = fetch_picture(
                api, saved, target, made=made, limit_bytes=limit_bytes, longest_s=longest_s,
                may_be_plain=model.may_be_plain,
            )  # fmt: skip
        if size != (task.width, task.height):
            asked = f"{task.width} × {task.height}"
            context.warn(f"The workflow {model.name} made {size[0]} × {size[1]} in place of {asked}.")
        return target


def _model(table: Options) -> Model:
    name, file = table.text("name"), Path(table.text("template"))
    try:
        template = read_template(file.read_bytes())
    except OSError as error:
        raise table.wrong("template", f"cannot be read: {file}: {error.strerror}.") from error
    except TemplateError as error:
        raise table.wrong("template", f"cannot be used: {file}: {error}") from error
    model = Model(name, template, table.text_table("lora_names"))
    table.done()
    return model
