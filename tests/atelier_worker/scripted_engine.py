"""An engine for tests that does what the prompt says: commands separated by semicolons, one method each.

It runs in a real child process, so a test steers it through the prompt and through named pipes (`wait PATH`).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Context, EngineError, LoadedModel, Task

ENGINE = f"{__name__}:ScriptedEngine"


class ScriptedEngine:
    """Obeys the prompt."""

    name = "scripted"
    concurrency = 4
    worker_types = ("chat", "sdxl")
    stages = ("generate", "enhance", "chat")

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._kept: list[LoadedModel] = []

    def run(self, task: Task, context: Context) -> None:
        """Run the commands of the prompt, or of the last message of a conversation, in order."""
        script = task.prompt if task.chat is None else task.chat.messages[-1].content
        for command in script.split(";"):
            name, _, argument = command.strip().partition(" ")
            getattr(self, f"do_{name}")(argument, task, context)

    def loaded(self) -> list[LoadedModel]:
        return list(self._kept)

    def do_keep(self, argument: str, task: Task, context: Context) -> None:
        """`keep NAME BYTES`: keep a model in memory from now on."""
        name, size_bytes = argument.split()
        self._kept.append(LoadedModel(name, "cpu", int(size_bytes)))

    def do_steered(self, argument: str, task: Task, context: Context) -> None:
        """Say as a warning what steers the task."""
        loras = [f"{lora.name}:{lora.weight:g}" for lora in task.loras]
        context.warn(f"{task.guidance} {task.scheduler!r} {loras} {[one.kind for one in task.references]}")

    def do_progress(self, argument: str, task: Task, context: Context) -> None:
        """`progress INDEX STEP STEPS`."""
        index, step, steps = map(int, argument.split())
        context.progress(step, steps, asset_index=index)

    def do_endless(self, argument: str, task: Task, context: Context) -> None:
        """Take small steps until cancelled, then leave a file that tells how it ended."""
        step = 0
        try:
            while True:
                step += 1
                context.progress(step, 1_000_000, asset_index=0)
                time.sleep(0.001)
        except BaseException as error:
            Path(argument).write_text(type(error).__name__)
            raise

    def do_hang(self, argument: str, task: Task, context: Context) -> None:
        """Never come back, whatever the worker says."""
        while True:
            time.sleep(60)

    def do_wait(self, argument: str, task: Task, context: Context) -> None:
        """`wait PATH`: block until somebody writes to the named pipe."""
        Path(argument).read_text()

    def do_hold(self, argument: str, task: Task, context: Context) -> None:
        """`hold PATH`: keep a named pipe open for reading as long as the process lives."""
        self._held = os.open(argument, os.O_RDONLY)

    def do_environment(self, argument: str, task: Task, context: Context) -> None:
        """Log every variable of the process."""
        for name, value in os.environ.items():
            context.log(f"{name}={value}")

    def do_preview(self, argument: str, task: Task, context: Context) -> None:
        """`preview INDEX SIZE`."""
        index, size = map(int, argument.split())
        context.preview(index, b"p" * size, "image/webp")

    def do_flood(self, argument: str, task: Task, context: Context) -> None:
        """`flood COUNT`: that many previews of output 0, each as large as it may be."""
        for _ in range(int(argument)):
            context.preview(0, b"p" * PREVIEW_LIMIT_BYTES, "image/webp")

    def do_write(self, argument: str, task: Task, context: Context) -> None:
        """`write TEXT`."""
        context.write(argument)

    def do_finish(self, argument: str, task: Task, context: Context) -> None:
        """`finish REASON [READ WRITTEN]`."""
        reason, *counts = argument.split()
        read, written = map(int, counts) if counts else (None, None)
        context.finish(reason, prompt_tokens=read, completion_tokens=written)  # type: ignore[arg-type]

    def do_wrote(self, argument: str, task: Task, context: Context) -> None:
        """`wrote MODEL TEMPLATE VERSION`: what wrote the prompt; shorter by words that are not said."""
        names = dict(zip(("model", "template", "template_version"), argument.split(), strict=False))
        context.finish("stop", **names)  # type: ignore[arg-type]

    def do_enhancer(self, argument: str, task: Task, context: Context) -> None:
        """Warn of what wrote the prompt."""
        context.warn(str(task.enhanced_by))

    def do_chat(self, argument: str, task: Task, context: Context) -> None:
        """Write everything that is known of the conversation."""
        context.write(f"{task.stage} {task.format} {task.indexes} {task.chat}")

    def do_much(self, argument: str, task: Task, context: Context) -> None:
        """`much COUNT`: write so many characters."""
        context.write("x" * int(argument))

    def do_log(self, argument: str, task: Task, context: Context) -> None:
        """`log LINE`."""
        context.log(argument)

    def do_warn(self, argument: str, task: Task, context: Context) -> None:
        """`warn SENTENCE`."""
        context.warn(argument)

    def do_deliver(self, argument: str, task: Task, context: Context) -> None:
        """`deliver INDEX SIZE`: always through the same path, as an engine with one scratch file does."""
        index, size = map(int, argument.split())
        path = context.workdir / "out.bin"
        path.write_bytes(bytes([index]) * size)
        context.deliver(index, path)

    def do_thumb(self, argument: str, task: Task, context: Context) -> None:
        """`thumb INDEX`: an output with a rendition."""
        path, thumb = context.workdir / "out.bin", context.workdir / "thumb.webp"
        path.write_bytes(b"output")
        thumb.write_bytes(b"thumb")
        context.deliver(int(argument), path, renditions={"thumb_256": thumb})

    def do_references(self, argument: str, task: Task, context: Context) -> None:
        """Deliver as output 0 the bytes of all references, each after its kind and strength."""
        path = context.workdir / "out.bin"
        parts = [f"{one.kind}:{one.strength:g}:".encode() + one.path.read_bytes() for one in task.references]
        path.write_bytes(b"|".join(parts))
        context.deliver(0, path)

    def do_fail(self, argument: str, task: Task, context: Context) -> None:
        """`fail INDEX REASON`."""
        index, _, reason = argument.partition(" ")
        context.fail(int(index), reason)

    def do_error(self, argument: str, task: Task, context: Context) -> None:
        """`error SENTENCE`."""
        raise EngineError(argument)

    def do_half(self, argument: str, task: Task, context: Context) -> None:
        """Fail with a sentence that cannot be encoded, such as an upstream may write."""
        raise EngineError(f"{argument}\ud800")

    def do_retry(self, argument: str, task: Task, context: Context) -> None:
        """`retry SENTENCE`: an error that may pass."""
        raise EngineError(argument, retryable=True)

    def do_raise(self, argument: str, task: Task, context: Context) -> None:
        """`raise TEXT`: a fault in the engine."""
        raise RuntimeError(argument)

    def do_die(self, argument: str, task: Task, context: Context) -> None:
        """Take the whole process down."""
        os._exit(3)

    def do_print(self, argument: str, task: Task, context: Context) -> None:
        """Write to standard output in every way there is, as chatty libraries do."""
        print(argument, flush=True)
        sys.__stdout__.write(argument)  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]
        os.write(1, argument.encode())

    def do_garbage(self, argument: str, task: Task, context: Context) -> None:
        """Write nonsense into every descriptor that is a pipe, the worker's among them, then wait for the end."""
        for descriptor in list(Path("/proc/self/fd").iterdir()):
            try:
                os.write(int(descriptor.name), b"nonsense, and no frame at all")
            except OSError:
                continue
        self.do_hang("", task, context)


class BrokenEngine:
    """Cannot be made."""

    def __init__(self, options: Mapping[str, str]) -> None:
        raise OSError("the weights are missing")
