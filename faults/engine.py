"""An engine for schedules: files of 100 kB and more that cost little, and failures that the prompt asks for.

The prompt carries what is to happen, as `JobPlan` says: `plan=17 flaky=1 crashes=0 refused=-1 doomed=0`. How often a
stage has been run already is remembered in files, since a run may be in any worker.
"""

from __future__ import annotations

import os
import re
import select
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from atelier_worker.engine import Context, EngineError, Task
from faults.schedule import JobPlan

FOLDER_VARIABLE = "FAULTS_ENGINE_FOLDER"
TEMPLATE = "template.mp4"
# 200 x 170 pixels of three bytes, stored without compression.
_WIDTH, _HEIGHT = 200, 170
_PADDING_BYTES = 100_000
_STEPS = 3
_STEP_S = 0.025
_WITH_RENDITION = 4
_PLAN = re.compile(r"plan=(\d+) flaky=(\d+) crashes=(\d+) refused=(-?\d+) doomed=(\d)")


def prompt_of(job: JobPlan) -> str:
    """Return the prompt that makes the engine do what the plan says."""
    return (
        f"a lighthouse plan={job.number} flaky={job.flaky} crashes={job.crashes} refused={job.refused}"
        f" doomed={int(job.doomed)}"
    )


def mark_of(number: int, index: int) -> bytes:
    """Return what the bytes of a job's output carry, so that an asset can be told from any other."""
    return b"atelier-faults plan=%d index=%d;" % (number, index)


class FaultsEngine:
    """Makes noisy pictures, padded videos and longer prompts; fails as often as the prompt says."""

    name = "faults"
    concurrency = 3

    def __init__(self, options: Mapping[str, str]) -> None:
        """Read where runs are remembered from the environment; there are no options."""
        self._folder = Path(os.environ[FOLDER_VARIABLE])

    def run(self, task: Task, context: Context) -> None:
        """Do one stage."""
        found = _PLAN.search(task.prompt)
        if found is None:
            raise EngineError("the prompt is not of a schedule")
        number, flaky, crashes, refused, doomed = (int(text) for text in found.groups())
        self._misbehave(task.stage, number, flaky, crashes)
        if doomed and task.stage == "generate":
            raise EngineError("this job is doomed", retryable=False)
        if task.stage == "enhance":
            for word in f"{task.prompt} in soft morning light".split():
                context.write(f"{word} ")
            return
        for index in task.indexes:
            self._make(task, context, number, index, refused)

    def _misbehave(self, stage: str, number: int, flaky: int, crashes: int) -> None:
        """Fail or crash in the first runs of a stage."""
        run = self._count_run(stage, number)
        if run < crashes:
            os._exit(11)
        if run < crashes + flaky:
            raise EngineError("this run fails, another may not", retryable=True)

    def _count_run(self, stage: str, number: int) -> int:
        for run in range(1_000):
            try:
                (self._folder / f"{number}-{stage}-{run}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return run
        raise EngineError("this stage was run a thousand times")

    def _make(self, task: Task, context: Context, number: int, index: int, refused: int) -> None:
        for step in range(1, _STEPS + 1):
            # Not time.sleep: under libfaketime it fails after the clock was stepped back (EINVAL of clock_nanosleep).
            select.select([], [], [], _STEP_S)
            context.progress(step, _STEPS, asset_index=index)
        if index == refused:
            context.fail(index, "this output is refused")
            return
        # An ending that nobody knows: the runtime makes no renditions then, which would cost more than all the rest.
        path = context.workdir / f"{index}.output"
        if task.format == "video":
            path.write_bytes(video((self._folder / TEMPLATE).read_bytes(), mark_of(number, index)))
        else:
            path.write_bytes(png(_WIDTH, _HEIGHT, mark_of(number, index)))
        renditions = {}
        if number % _WITH_RENDITION == 0:
            renditions["thumb_256"] = context.workdir / f"{index}-small.png"
            renditions["thumb_256"].write_bytes(png(8, 8, b""))
        context.deliver(index, path, renditions=renditions)


def png(width: int, height: int, mark: bytes) -> bytes:
    """Return a PNG of noise that is new at each call, with a comment."""
    rows = b"".join(b"\0" + os.urandom(width * 3) for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"tEXt", b"Comment\0" + mark),
            _chunk(b"IDAT", zlib.compress(rows, 0)),
            _chunk(b"IEND", b""),
        )
    )


def video(template: bytes, mark: bytes) -> bytes:
    """Return a playable MP4 with a free box behind it, whose bytes are new at each call (ISO/IEC 14496-12, 8.1.2)."""
    body = mark + os.urandom(_PADDING_BYTES)
    return template + struct.pack(">I4s", 8 + len(body), b"free") + body


def video_template() -> bytes:
    """Return a small MP4 of five frames."""
    import io

    import av
    from PIL import Image

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for shade in range(5):
            frame = av.VideoFrame.from_image(Image.new("RGB", (64, 64), (shade * 40, 80, 120)))  # type: ignore[no-untyped-call]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
