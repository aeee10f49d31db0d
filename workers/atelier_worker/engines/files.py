"""The files that engines read and write: pictures and videos that say how they were made, renditions, references.

The same request gives the same bytes: nothing that differs between runs (job ids, times) goes into a file.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from atelier_worker.engine import EngineError, Reference, Task
from service_kit.pictures import as_meant

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

KEY = "atelier"
CLIP_LIMIT_BYTES = 300_000
_CLIP_SIDE = 320
_QUALITY = 80
# Numbers of ITU-T H.273 for colours, and of FFmpeg for their range.
_BT709, _LIMITED_RANGE = 1, 1
_NOTHING: Mapping[str, object] = MappingProxyType({})
_THUMBNAILS = {"thumb_256": 256, "thumb_1024": 1024}


def made_with(task: Task, seed: int, engine: str, more: Mapping[str, object] = _NOTHING) -> str:
    """How an output was made, as JSON: engine, prompts, model, its own seed, and the settings that shaped it.

    `more` are settings of this engine, such as the guidance that was really used.
    """
    settings: dict[str, object] = {
        "width": task.width,
        "height": task.height,
        "steps": task.steps,
        "quality": task.quality,
        "references": [{"kind": reference.kind, "strength": reference.strength} for reference in task.references],
    }
    if task.options.get("aspect_ratio"):
        settings["aspect_ratio"] = task.options["aspect_ratio"]
    if task.format == "video":
        settings |= {"frames": task.frames, "fps": task.fps}
    if task.guidance is not None:
        settings["guidance"] = task.guidance
    if task.scheduler:
        settings["scheduler"] = task.scheduler
    if task.loras:
        settings["loras"] = [{"name": lora.name, "weight": lora.weight} for lora in task.loras]
    made = {
        "engine": engine,
        "prompt": task.prompt,
        "negative_prompt": task.negative_prompt,
        "model": task.model,
        "seed": seed,
        "settings": settings | dict(more),
    }
    if task.options.get("original_prompt"):
        made["original_prompt"] = task.options["original_prompt"]
    if task.enhanced_by is not None:
        made["enhanced_by"] = {name: said for name, said in asdict(task.enhanced_by).items() if said}
    text = json.dumps(made, ensure_ascii=False, sort_keys=True)
    # The same JSON, but no prompt of a page or of a document makes the file look like one.
    return text.replace("<", "\\u003c").replace("%PDF", "\\u0025PDF")


def save_png(image: Image.Image, path: Path, made: str) -> None:
    """Write a PNG that says how it was made (see `made_with`): an iTXt chunk under the key `atelier`.

    Rows are filtered, and of the rest only runs of equal bytes are packed. A picture like a photograph is no larger so
    than by searching for longer repetitions, and is written in less than half the time.
    """
    info = PngInfo()
    info.add_itxt(KEY, made)
    image.save(path, "PNG", pnginfo=info, compress_level=1, compress_type=zlib.Z_RLE)


def save_picture(image: Image.Image, folder: Path, made: str) -> tuple[Path, dict[str, Path]]:
    """Write a picture as `save_png` does, and its thumbnails beside it. Returns where they are.

    Pillow lets go of the interpreter while it compresses, so the thumbnails cost a job hardly any time of its own.
    """
    path = folder / "image.png"
    with ThreadPoolExecutor(max_workers=1) as beside:
        whole = beside.submit(save_png, image, path, made)
        renditions = image_renditions(image, folder)
        whole.result()
    return path, renditions


def read_picture(reference: Reference, width: int, height: int) -> Image.Image:
    """A reference as RGB, upright, cut to the middle of the shape of `width` × `height` pixels.

    Raises:
        EngineError: the file is no picture that can be read.
    """
    upright = read_upright(reference, (width, height))
    return ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)


def read_upright(reference: Reference, at_least: tuple[int, int] | None = None) -> Image.Image:
    """A reference as RGB, upright; `at_least` so many pixels wide and high where its format can be read smaller.

    Of an animation it is the first frame. What is transparent is white, and in a mask black: nothing was painted there.

    Raises:
        EngineError: the file is no picture that can be read.
    """
    try:
        with Image.open(reference.path) as opened:
            if at_least is not None:
                opened.draft("RGB", at_least)
            return _opaque(as_meant(opened), "black" if reference.kind == "mask" else "white")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise EngineError(
            f"The reference of kind {reference.kind} is not a picture that can be read; send a PNG, JPEG or WebP file."
        ) from error


def _opaque(picture: Image.Image, ground: str) -> Image.Image:
    """A picture as RGB, on a ground where it is transparent: what lies below that is anything."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, ground), layer).convert("RGB")


def painted_by(mask: Image.Image, strength: float) -> Image.Image:
    """A mask as grey: white is painted, and with a strength of less than 1, in part, also what is black."""
    return mask.convert("L").point([round(255 - (255 - level) * strength) for level in range(256)])


def image_renditions(image: Image.Image, folder: Path) -> dict[str, Path]:
    """Write a picture's thumbnails as WebP, which fit in 256 and in 1024 pixels; nothing is enlarged."""
    return {kind: _save_webp(image, side, folder / f"{kind}.webp") for kind, side in _THUMBNAILS.items()}


def video_renditions(poster: Image.Image, clip: Sequence[Image.Image], clip_ms: int, folder: Path) -> dict[str, Path]:
    """Write a video's thumbnails and poster, and a clip that loops: an animated WebP of at most 300 kB.

    `clip` are frames as `clip_frame` makes them, each shown for `clip_ms` milliseconds.
    """
    made = image_renditions(poster, folder)
    made["poster"] = _save_webp(poster, max(poster.size), folder / "poster.webp")
    made["clip"] = folder / "clip.webp"
    made["clip"].write_bytes(_animation(clip, clip_ms))
    return made


def clip_frame(frame: Image.Image) -> Image.Image:
    """A frame at the size that it has in the clip."""
    return _fitted(frame, _CLIP_SIDE)


def _save_webp(image: Image.Image, side: int, path: Path) -> Path:
    _fitted(image, side).save(path, "WEBP", quality=_QUALITY, method=2)
    return path


def _fitted(image: Image.Image, side: int) -> Image.Image:
    scale = min(1.0, side / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if scale == 1.0 else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _animation(frames: Sequence[Image.Image], frame_ms: int) -> bytes:
    """The best animation within the limit: quality goes down first, then frames are left out, then it gets smaller."""
    data = b""
    for keep, quality, side in (
        (1, 65, _CLIP_SIDE),
        (1, 35, _CLIP_SIDE),
        (2, 35, _CLIP_SIDE),
        (4, 25, _CLIP_SIDE // 2),
    ):
        out = io.BytesIO()
        shown = [_fitted(frame, side) for frame in frames[::keep]]
        shown[0].save(
            out,
            "WEBP",
            save_all=True,
            append_images=shown[1:],
            duration=frame_ms * keep,
            loop=0,
            quality=quality,
            method=1,
        )
        data = out.getvalue()
        if len(data) <= CLIP_LIMIT_BYTES:
            break
    return data


class Mp4Writer:
    """An MP4 in the making: H.264, 4:2:0, BT.709, index in front, and how it was made under the key `atelier`.

    One encoder thread and no date: the same frames give the same bytes.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: int, made: str, *, encoder: str) -> None:
        """Open a file. `size` is (width, height), both even; `encoder` is the engine that makes the frames."""
        import av

        self._container: OutputContainer = av.open(
            str(path),
            "w",
            format="mp4",
            options={"movflags": "+faststart+use_metadata_tags", "fflags": "+bitexact"},
        )
        self._container.metadata.update({KEY: made, "encoder": encoder})
        # x264's macroblock tree reads past the end of a very small picture: its bytes then differ from run to run.
        options = {"preset": "veryfast", "crf": "20", "threads": "1", "rc-lookahead": "12", "x264-params": "mbtree=0"}
        stream: VideoStream = self._container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 2 * fps
        # Said, for players guess: BT.601 for small videos, BT.709 for large ones.
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT709, _LIMITED_RANGE
        self._stream = stream
        self._next = 0
        self._frame_of: Callable[[Image.Image], VideoFrame] = av.VideoFrame.from_image

    def add(self, image: Image.Image) -> None:
        """Append one frame."""
        frame = self._frame_of(image).reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_LIMITED_RANGE)
        frame.pts, frame.time_base = self._next, self._stream.codec_context.time_base
        self._next += 1
        self._mux(self._stream.encode(frame))

    def __enter__(self) -> Mp4Writer:
        """Start writing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file; after an error it is closed as it is, for whoever removes it."""
        try:
            if kind is None:
                self._mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _mux(self, packets: Iterable[Packet[VideoStream]]) -> None:
        for packet in packets:
            self._container.mux(packet)
