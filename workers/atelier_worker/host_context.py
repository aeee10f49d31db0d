"""What the engine's process gives to a running task: every word of it becomes a message to the worker."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier.router.v1 import chat_pb2
from atelier_worker.engine import PREVIEW_LIMIT_BYTES, RENDITION_KINDS, Cancelled
from atelier_worker.host_rooms import Rooms
from atelier_worker.host_text import Flusher, Text
from atelier_worker.renditions import complete

_NO_RENDITIONS: Mapping[str, Path] = MappingProxyType({})
_DELIVERED = ".delivered"
_CONTROLS = dict.fromkeys({*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")})
_FINISH_REASONS = {"stop": chat_pb2.FINISH_REASON_STOP, "length": chat_pb2.FINISH_REASON_LENGTH}


class HostContext:
    """The `Context` of one task. Every method may be called from any thread."""

    def __init__(
        self, task: pb.RunTask, send: Callable[[pb.HostResponse], None], rooms: Rooms, flusher: Flusher
    ) -> None:
        """Speak for one task through `send`, and ask for room through `rooms`; all are safe from any thread."""
        self._task_id = task.task_id
        self._folder = task.workdir
        self._indexes = frozenset(task.indexes)
        self._send_now = send
        self._text = Text(self._send_text, flusher)
        self._rooms = rooms
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._finish: pb.TaskFinish | None = None
        self._steps: dict[int, int] = {}
        self._settled: set[int] = set()

    def cancel(self) -> None:
        """Have the next call raise `Cancelled`. For the host, which also calls it when the task has ended."""
        self._is_cancelled = True

    def last_words(self) -> list[pb.HostResponse]:
        """Return what waits to be said of the text. For the host, which says it when the task has ended."""
        text, finish = encodable(self._text.take()), self._finish
        said = [pb.HostResponse(text=pb.TaskText(task_id=self._task_id, text=text))] if text else []
        return said if finish is None else [*said, pb.HostResponse(finish=finish)]

    @property
    def workdir(self) -> Path:
        # The worker makes it where there will be files for sure; a text seldom needs one.
        folder = self._workdir
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def _workdir(self) -> Path:
        return Path(self._folder)

    def check_cancelled(self) -> None:
        if self._is_cancelled:
            raise Cancelled

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.check_cancelled()
        message = pb.TaskProgress(task_id=self._task_id, step=int(step), steps=int(steps), phase=encodable(phase))
        if asset_index is not None:
            message.asset_index = int(asset_index)
            self._steps[int(asset_index)] = int(step)
        self._send(pb.HostResponse(progress=message))

    def preview(self, asset_index: int, image: bytes, content_type: str) -> None:
        self.check_cancelled()
        if len(image) > PREVIEW_LIMIT_BYTES:
            self.log(f"a preview of {len(image)} bytes was dropped: at most {PREVIEW_LIMIT_BYTES} can be shown")
            return
        message = pb.TaskPreview(
            task_id=self._task_id, asset_index=int(asset_index), content_type=content_type, image=bytes(image)
        )
        message.step = self._steps.get(int(asset_index), 0)
        self._send(pb.HostResponse(preview=message))

    def write(self, delta: str) -> None:
        self.check_cancelled()
        self._text.add(str(delta))

    def finish(
        self,
        reason: Literal["stop", "length"],
        *,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        model: str = "",
        template: str = "",
        template_version: str = "",
    ) -> None:
        self.check_cancelled()
        if reason not in _FINISH_REASONS:
            raise ValueError(f"a text ends with {' or '.join(_FINISH_REASONS)}; got {reason!r}")
        usage = None
        if prompt_tokens is not None and completion_tokens is not None:
            usage = chat_pb2.TokenUsage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        message = pb.TaskFinish(task_id=self._task_id, reason=_FINISH_REASONS[reason], usage=usage)
        wrote = {"model": model, "template": template, "template_version": template_version}
        for name, said in wrote.items():
            if said:
                setattr(message.enhanced_by, name, encodable(said))
        # It counts only when the task has ended, and travels with that.
        self._finish = message

    def log(self, line: str) -> None:
        self.check_cancelled()
        self._send(pb.HostResponse(log=pb.TaskLog(task_id=self._task_id, line=encodable(line))))

    def warn(self, message: str) -> None:
        self.check_cancelled()
        self._send(pb.HostResponse(warning=pb.TaskWarning(task_id=self._task_id, message=encodable(message))))

    def deliver(self, asset_index: int, path: Path, *, renditions: Mapping[str, Path] = _NO_RENDITIONS) -> None:
        unknown = [kind for kind in renditions if kind not in RENDITION_KINDS]
        if unknown:
            raise ValueError(f"renditions are {', '.join(RENDITION_KINDS)}; got {unknown[0]!r}")
        if not Path(path).is_file() or Path(path).stat().st_size == 0:
            raise ValueError(f"output {asset_index} is not a file with content: {path}")
        self._settle(asset_index)
        message = pb.OutputDelivered(task_id=self._task_id, asset_index=int(asset_index))
        output = self._take(asset_index, "output", Path(path))
        message.path = str(output)
        for kind, file in complete(output, renditions, self._workdir).items():
            message.renditions[kind] = str(self._take(asset_index, kind, Path(file)))
        self._send(pb.HostResponse(delivered=message))

    def fail(self, asset_index: int, reason: str, *, retryable: bool = False) -> None:
        self._settle(asset_index)
        message = pb.OutputFailed(task_id=self._task_id, asset_index=int(asset_index), retryable=retryable)
        message.reason = encodable(reason)
        self._send(pb.HostResponse(failed=message))

    def make_room(self, device: str, wanted_bytes: int) -> int:
        return self._rooms.ask(str(device), int(wanted_bytes), self.check_cancelled)

    def _send(self, message: pb.HostResponse) -> None:
        """Send what comes after the text that was written before it."""
        self._text.flush()
        self._send_now(message)

    def _send_text(self, written: str) -> None:
        if text := encodable(written):
            self._send_now(pb.HostResponse(text=pb.TaskText(task_id=self._task_id, text=text)))

    def _settle(self, asset_index: int) -> None:
        with self._lock:
            if asset_index not in self._indexes:
                raise ValueError(f"output {asset_index} was not asked for")
            if asset_index in self._settled:
                raise ValueError(f"output {asset_index} was already delivered or given up")
            self._settled.add(asset_index)

    def _take(self, asset_index: int, kind: str, path: Path) -> Path:
        """Take a file out of the engine's hands: while it is uploaded the next one may be written to the same path."""
        target = self._workdir / _DELIVERED / f"{asset_index}-{kind}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        if self._workdir.resolve() in path.resolve().parents:
            os.replace(path, target)  # noqa: PTH105 - Path.replace returns nothing better
        else:
            shutil.copyfile(path, target)
        return target


def encodable(text: object) -> str:
    """Return text that can be encoded, stored and shown, whatever an engine or a model behind it wrote.

    Half a surrogate pair, which some tokenizers emit, becomes a question mark. Control characters but tabs and ends of
    lines are left out: no database takes a NUL, and escapes would steer the terminal of whoever reads along.
    """
    return str(text).encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)
