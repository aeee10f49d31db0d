"""`make demo`: starts everything, makes pictures, a video and a richer prompt, and saves one picture for good.

At a terminal it keeps running until Ctrl-C; elsewhere it ends when it is done. Either way nothing is left running.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from atelier_cli.exits import explain
from atelier_cli.progress import Bars, Lines
from atelier_client import Asset, Atelier, AtelierError, GrowingText, Job, Submitted

ROOT = Path(__file__).resolve().parents[1]
NEEDED_BYTES = 300 << 20
START_SECONDS = 60.0
JOB_SECONDS = 120.0
STOP_SECONDS = 25.0

PICTURES = "a lighthouse on a basalt cliff in a storm, long exposure, teal and slate"
VIDEO = "paper boats drifting down a gutter in spring rain, close to the water"
PROMPT = "a red bicycle leaning on a whitewashed wall, noon light"


class Missing(Exception):
    """Something that the demo needs is not there; the message says what to do."""


@dataclass
class Stage:
    """What the demo runs on: the started system, and where its files go."""

    client: Atelier
    data_dir: Path
    out: Path


def main() -> int:
    """Run the demo and return its exit code."""
    signal.signal(signal.SIGTERM, _terminated)
    data_dir = Path(os.environ.get("ATELIER_DATA_DIR") or ROOT / ".atelier").resolve()
    try:
        _check_space(data_dir)
        with _running(data_dir) as stage:
            _perform(stage)
            if sys.stdin.isatty() and sys.stdout.isatty():
                print("\nIt keeps running; stop it with Ctrl-C.", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
        return 0
    except KeyboardInterrupt:
        print("\nStopped.")
        return 130
    except Missing as missing:
        print(f"make demo: {missing}", file=sys.stderr)
        return 1
    except (AtelierError, OSError) as error:
        return explain(error) or 1


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _check_space(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Missing(
            f"{data_dir} cannot be made ({error.strerror}): choose another folder with ATELIER_DATA_DIR"
        ) from error
    free = shutil.disk_usage(data_dir).free
    if free < NEEDED_BYTES:
        raise Missing(
            f"{free >> 20} MB are free in {data_dir}, and the demo needs {NEEDED_BYTES >> 20} MB: free some space, or "
            "choose another folder with ATELIER_DATA_DIR"
        )


@contextlib.contextmanager
def _running(data_dir: Path) -> Iterator[Stage]:
    """Run `atelier up` as a child that cannot outlive this process."""
    out = data_dir / "demo"
    out.mkdir(exist_ok=True)
    log = out / "atelier-up.log"
    began = time.monotonic()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "atelier_cli.attached", "atelier_cli", "up", "--json", "--data-dir", str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            url = _address(process, log)
            key = (data_dir / "keys" / "admin.key").read_text("utf-8").strip()
            with Atelier(url, key) as client:
                _wait_for_workers(client, log)
                print(f"Atelier is up at {url} after {time.monotonic() - began:.1f} s.", flush=True)
                yield Stage(client, data_dir, out)
        finally:
            _stop(process)


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Return the address that the started system tells. Raises Missing with its own sentence when it did not start."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        process.wait(STOP_SECONDS)
        said = [text for text in log.read_text("utf-8").splitlines() if text.startswith("atelier: ")]
        raise Missing(said[-1].removeprefix("atelier: ") if said else f"Atelier did not start; {log} says why")
    return str(json.loads(line)["url"])


def _wait_for_workers(client: Atelier, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not (client.health().serving and all(model.connected_workers for model in client.models())):
        if time.monotonic() > end:
            raise Missing(f"no worker connected within {START_SECONDS:g} s; {log} says why")
        time.sleep(0.05)


def _stop(process: subprocess.Popen[str]) -> None:
    """End the child. Ctrl-C has reached it already when it came from the terminal: then it is only waited for."""
    with contextlib.suppress(KeyboardInterrupt):
        if process.poll() is None:
            process.terminate()
        process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _perform(stage: Stage) -> None:
    client = stage.client
    print(f"\n1. Four pictures: {PICTURES}")
    pictures = _files(stage, client.submit(PICTURES, model="sdxl", format="image", quantity=4, seed=7))
    print(f"\n2. A video: {VIDEO}")
    video = _files(stage, client.submit(VIDEO, model="wan", format="video", seed=7))
    print(f"\n3. A richer prompt from: {PROMPT}")
    text = _enhance(stage)
    print("\n4. The first picture, saved for good")
    (saved,) = client.save(pictures[0][0].asset_id)
    if saved.item is None:
        raise Missing(
            f"the picture could not be saved: {saved.failure.message if saved.failure else 'nobody knows why'}"
        )
    print(f"   item {saved.item.item_id}")
    _tell(stage, [path for _, path in pictures + video], text)


def _files(stage: Stage, submitted: Submitted) -> list[tuple[Asset, Path]]:
    """Watch a job to its end and download what it made."""
    _watch(stage, submitted)
    assets = sorted(stage.client.assets(submitted.job_id), key=lambda asset: asset.asset_index)
    found = []
    for asset in assets:
        path = stage.client.download(asset, stage.out)
        print(f"   {path}  {asset.media.width}x{asset.media.height}, {asset.media.size_bytes >> 10} KiB")
        found.append((asset, path))
    return found


def _watch(stage: Stage, submitted: Submitted) -> Job:
    quantity = submitted.generation_settings.quantity
    job: Job | None = None
    with Bars(quantity) if sys.stderr.isatty() else Lines() as display:
        for event in stage.client.watch(submitted.job_id, timeout=JOB_SECONDS):
            job = event.job or job
            display.show(event)
    if job is None or job.state != "succeeded":
        said = f"{job.failure.message} ({job.failure.reason})" if job and job.failure else "no reason was told"
        raise Missing(f"job {submitted.job_id} did not succeed: {said}; {stage.out / 'atelier-up.log'} may say more")
    return job


def _enhance(stage: Stage) -> Path:
    submitted = stage.client.submit(PROMPT, model="sdxl", enhancement_only=True)
    text, written = GrowingText(), "   "
    print(written, end="")
    for event in stage.client.watch(submitted.job_id, timeout=JOB_SECONDS):
        if event.text_delta is not None:
            print(text.add(event.text_delta)[1], end="", flush=True)
    print()
    path = stage.out / "prompt.txt"
    path.write_text(stage.client.get_job(submitted.job_id).enhanced_prompt + "\n", "utf-8")
    return path


def _tell(stage: Stage, files: list[Path], text: Path) -> None:
    url = stage.client.url
    if sys.stdout.isatty():
        url = f"{url}/#code={stage.client.create_sign_in_code().code}"
    atelier = Path(sys.executable).with_name("atelier")
    shown = atelier.relative_to(Path.cwd()) if atelier.is_relative_to(Path.cwd()) else atelier
    print(f"\nDone: {len(files)} files and {text.name} are in {stage.out}")
    print(f"  page     {url}")
    print("Next, in another terminal while it runs, or after `make up`:")
    print(f"  export ATELIER_DATA_DIR={stage.data_dir}")
    print(f'  {shown} generate "a heron taking off, charcoal on toned paper" --quantity 3 --out pictures')
    print(f'  {shown} enhance "terraced rice fields at dawn"')
    print(f"  {shown} library list")


if __name__ == "__main__":
    sys.exit(main())
