"""`atelier jobs`: what was asked for and how far it is."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from atelier_cli.context import Context
from atelier_cli.exits import JOB_FAILED, OK
from atelier_cli.progress import follow, tell_end

if TYPE_CHECKING:
    from atelier_client import Job, JobEvent


def moment(value: datetime.datetime | None) -> str:
    """Return a time for people: local, to the second."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M:%S") if value else ""


def shortened(text: str, length: int = 48) -> str:
    """Return a text on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def list_jobs(context: Context) -> int:
    """List jobs, newest first."""
    arguments = context.arguments
    with context.client() as client:
        page = client.list_jobs(state=arguments.state, page_size=arguments.page_size, page_token=arguments.page_token)
    if context.json:
        context.print_json(page.raw)
        return OK
    context.table(
        ("JOB", "STATE", "MADE", "CREATED", "PROMPT"),
        [(job.job_id, job.state, _made(job), moment(job.created_at), shortened(job.prompt)) for job in page],
    )
    if page.next_page_token:
        context.note(f"more: --page-token {page.next_page_token}")
    if not len(page):
        context.note("no jobs")
    return OK


def _made(job: Job) -> str:
    """Return how much of it is there; a job for a prompt makes text and no outputs."""
    return "text" if job.enhancement_only else f"{job.delivered}/{job.requested}"


def show(context: Context) -> int:
    """Show one job."""
    with context.client() as client:
        job = client.get_job(context.arguments.job_id)
    context.print_json({"job": job.raw}) if context.json else _print_job(context, job)
    return OK


def _print_job(context: Context, job: Job) -> None:
    settings = job.generation_settings
    lines = {
        "job": job.job_id,
        "state": job.state,
        "waits for": job.waits_for,
        "failure": f"{job.failure.message} ({job.failure.reason})" if job.failure else "",
        "prompt": job.prompt,
        "enhanced": job.enhanced_prompt,
        "enhancer": str(job.enhanced_by or ""),
        "negative": job.negative_prompt,
        "model": f"{settings.model} ({settings.worker_type})",
        "makes": " ".join(part for part in (settings.format, settings.size) if part),
        "seed": "" if job.enhancement_only else str(settings.seed),
        "steps": "" if job.enhancement_only else str(settings.steps),
        "delivered": "" if job.enhancement_only else f"{job.delivered} of {job.requested}",
        "created": moment(job.created_at),
        "started": moment(job.started_at),
        "finished": moment(job.finished_at),
    }
    for name, value in lines.items():
        if value:
            context.print(f"{name:10} {value}")
    for output in job.outputs:
        said = f": {output.failure.message}" if output.failure else ""
        context.print(f"output {output.asset_index:<3} {output.state}  {output.asset_id}{said}")
    for warning in job.warnings:
        context.print(f"warning    {warning.message}")


def watch(context: Context) -> int:
    """Follow a job until it ends; with --json each event is one line."""
    arguments = context.arguments
    job: Job | None = None
    with context.client() as client:
        for event in follow(client, arguments.job_id, after=arguments.after, timeout=arguments.timeout):
            job = event.job or job
            _print_event(context, event)
        if job is None or not job.ended:  # A cursor behind the last event: nothing more came.
            job = client.get_job(arguments.job_id)
    if context.json:
        return OK if job.state == "succeeded" else JOB_FAILED
    return OK if tell_end(context, job).state == "succeeded" else JOB_FAILED


def _print_event(context: Context, event: JobEvent) -> None:
    if context.json:
        context.print_json(event.raw)
    elif event.job is not None:
        waits_for = event.job.waits_for
        context.print(f"{event.job.state}{f': {waits_for}' if waits_for else ''}")
    elif event.progress is not None:
        progress = event.progress
        step = f"step {progress.step}/{progress.steps} {progress.phase}".rstrip()
        context.print(f"{progress.stage} output {progress.asset_index} {step}")
    elif event.text_delta is not None:
        context.print(f"text at {event.text_delta.offset}: {event.text_delta.text}")
    elif event.log is not None:
        context.print(f"log: {event.log.line}")


def cancel(context: Context) -> int:
    """Stop a job."""
    with context.client() as client:
        job = client.cancel(context.arguments.job_id)
    context.print_json({"job": job.raw}) if context.json else context.print(job.state)
    return OK
