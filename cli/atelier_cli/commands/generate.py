"""`atelier generate` and `atelier enhance`: hand in, watch, show, download, save."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atelier_cli.context import Context
from atelier_cli.exits import INTERRUPTED, JOB_FAILED, OK, Ended, UsageError
from atelier_cli.parser import REFERENCE_KINDS
from atelier_cli.progress import display_for, follow, tell_end
from atelier_cli.terminal import for_stdout

if TYPE_CHECKING:
    from atelier_client import (
        Asset,
        Atelier,
        GenerateOptions,
        Job,
        Lora,
        ReferenceImage,
        SaveResult,
        Submitted,
        Webhook,
    )


def generate(context: Context) -> int:
    """Make images or a video from a prompt."""
    arguments = context.arguments
    wanted = _references(arguments)
    with context.client() as client:
        references = [_upload(client, *reference) for reference in wanted]
        submitted = client.submit(arguments.prompt, model=arguments.model, **_options(arguments, references))
        _tell_warnings(context, submitted)
        if arguments.no_wait:
            context.print_json(submitted.raw) if context.json else context.print(submitted.job_id)
            return OK
        job = _wait(context, client, submitted)
        if job.state != "succeeded":
            return JOB_FAILED
        return _deliver(context, client, job)


def enhance(context: Context) -> int:
    """Write a richer prompt to stdout while it comes."""
    from atelier_client import GrowingText

    arguments = context.arguments
    with context.client() as client:
        submitted = client.submit(arguments.prompt, model=arguments.model, enhancement_only=True)
        _tell_warnings(context, submitted)
        text, job = GrowingText(), None
        for event in follow(client, submitted.job_id, timeout=arguments.timeout):
            job = event.job or job
            if event.text_delta is not None and not context.json:
                anew, piece = text.add(event.text_delta)
                print(for_stdout(("\n" if anew else "") + piece), end="", flush=True)
    job = tell_end(context, job)
    if job.state != "succeeded":
        return JOB_FAILED
    if context.json:
        context.print_json({"job": job.raw})
    else:
        # What was missed on the way is in the finished job.
        context.print(
            job.enhanced_prompt.removeprefix(text.text)
            if job.enhanced_prompt.startswith(text.text)
            else f"\n{job.enhanced_prompt}"
        )
    return OK


def _options(arguments: argparse.Namespace, references: Sequence[ReferenceImage]) -> GenerateOptions:
    return {
        "format": arguments.format,
        "quantity": arguments.quantity,
        "seed": arguments.seed,
        "negative_prompt": arguments.negative or "",
        "quality": arguments.quality or "",
        "aspect_ratio": arguments.aspect or "",
        "steps": arguments.steps,
        "duration_seconds": arguments.duration,
        "frame_rate": arguments.frame_rate,
        "priority": arguments.priority,
        "enhance_prompt": arguments.enhance,
        "guidance": arguments.guidance,
        "scheduler": arguments.scheduler or "",
        "loras": [_lora(text) for text in arguments.lora],
        "reference_images": references,
        "webhook": _webhook(arguments),
    }


def _webhook(arguments: argparse.Namespace) -> Webhook | None:
    """Return where to tell of the job; None: nowhere. Raises UsageError for words about a webhook without its URL."""
    from atelier_client import Webhook

    if arguments.webhook:
        return Webhook(arguments.webhook, tuple(arguments.webhook_event), arguments.webhook_dialect)
    if arguments.webhook_event or arguments.webhook_dialect:
        raise UsageError(
            "--webhook-event and --webhook-dialect say how to tell of the job: say where, with --webhook URL."
        )
    return None


def _lora(text: str) -> Lora:
    """Read NAME[:WEIGHT]. Raises UsageError for a weight that is no number."""
    from atelier_client import Lora

    name, _, weight = text.partition(":")
    try:
        return Lora(name, float(weight) if weight else None)
    except ValueError:
        raise UsageError(f"the weight in --lora {text} must be a number from -4 to 4, got {weight!r}.") from None


def _references(arguments: argparse.Namespace) -> list[tuple[Path, str, float | None]]:
    """Return file, kind and strength of every picture to start from. Raises UsageError."""
    found = [_parse_reference(text) for text in arguments.reference]
    files = {kind: getattr(arguments, kind) for kind in ("init", "mask", "first_frame", "last_frame")}
    for kind, file in files.items():
        if file is not None:
            found.append((Path(file).expanduser(), kind, None))
    for path, _, _ in found:
        if not path.is_file():
            raise UsageError(f"there is no file {path}.")
    return found


def _parse_reference(text: str) -> tuple[Path, str, float | None]:
    """Split FILE[:KIND[:STRENGTH]]; a colon that is part of the file's name does no harm."""
    head, _, strength_text = text.rpartition(":")
    file, _, kind = head.rpartition(":")
    if kind in REFERENCE_KINDS:
        try:
            return Path(file).expanduser(), kind, float(strength_text)
        except ValueError:
            raise UsageError(
                f"the strength in --reference {text} must be a number from 0 to 1, got {strength_text!r}."
            ) from None
    if strength_text in REFERENCE_KINDS and head:
        return Path(head).expanduser(), strength_text, None
    path = Path(text).expanduser()
    if head and not path.is_file() and Path(head).expanduser().is_file():
        raise UsageError(
            f"the kind in --reference {text} must be one of {', '.join(REFERENCE_KINDS)}, got {strength_text!r}."
        )
    return path, "style", None


def _upload(client: Atelier, path: Path, kind: str, strength: float | None) -> ReferenceImage:
    from atelier_client import ReferenceImage

    return ReferenceImage(client.upload(path).asset_id, kind, strength)


def _tell_warnings(context: Context, submitted: Submitted) -> None:
    for warning in submitted.warnings:
        context.note(f"warning: {warning.message}")


def _wait(context: Context, client: Atelier, submitted: Submitted) -> Job:
    """Show the job until it ends. On Ctrl-C it goes on, and the person learns how to come back."""
    job: Job | None = None
    try:
        with display_for(context, submitted.generation_settings.quantity) as display:
            for event in follow(client, submitted.job_id, timeout=context.arguments.timeout):
                job = event.job or job
                display.show(event)
    except KeyboardInterrupt:
        raise Ended(
            INTERRUPTED,
            f"Job {submitted.job_id} goes on. See it with `atelier jobs watch {submitted.job_id}`, "
            f"stop it with `atelier jobs cancel {submitted.job_id}`.",
        ) from None
    return tell_end(context, job)


def _deliver(context: Context, client: Atelier, job: Job) -> int:
    arguments = context.arguments
    assets = sorted(client.assets(job.job_id, page_size=200), key=lambda asset: asset.asset_index)
    results = client.save(*(asset.asset_id for asset in assets)) if arguments.save and assets else ()
    files = [client.download(asset, _folder(arguments.out)) for asset in assets] if arguments.out else []
    if context.json:
        context.print_json(_as_json(job, assets, results, files))
    else:
        _print_assets(context, assets, files)
        _tell_saved(context, results)
    unsaved = [result for result in results if result.item is None]
    return JOB_FAILED if unsaved else OK


def _folder(out: str) -> Path:
    folder = Path(out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _as_json(job: Job, assets: Sequence[Asset], results: Sequence[SaveResult], files: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = {"job": job.raw, "assets": [asset.raw for asset in assets]}
    if results:
        found["results"] = [result.raw for result in results]
    if files:
        found["files"] = [str(path) for path in files]
    return found


def _print_assets(context: Context, assets: Sequence[Asset], files: Sequence[Path]) -> None:
    for index, asset in enumerate(assets):
        media = asset.media
        where = files[index] if files else asset.url
        context.print(f"{asset.asset_id}  {media.width}x{media.height}  seed {asset.provenance.seed}  {where}")


def _tell_saved(context: Context, results: Sequence[SaveResult]) -> None:
    for result in results:
        if result.item is not None:
            context.note(f"saved {result.asset_id} as item {result.item.item_id}")
        elif result.failure is not None:
            context.note(f"not saved: {result.asset_id}: {result.failure.message}")
