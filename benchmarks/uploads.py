"""Outputs on their way in and references on their way out: worker, asset service, store; beside plain clients.

One asset service in a process of its own for each store. The worker's side is the worker's own `Transfers`, in this
process, with lease tokens that the router's keys have signed before the clock starts. A plain client does the store's
part alone: a file copied and synced to the disk with its folder, or an upload of google-cloud-storage with CRC32C and a
precondition.
"""

from __future__ import annotations

import asyncio
import gc
import io
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc

from atelier.type.v1 import media_pb2
from atelier_worker.patience import Patience
from atelier_worker.uploads import Transfers
from atelier_worker.whole_outputs import WholeOutputs
from atelier_worker.whole_references import WholeReferences
from benchmarks.comparison import Series, Target, ratio, require_all
from benchmarks.load_report import Line
from benchmarks.system import free_ports
from service_kit.blobs import WORKSPACE_BUCKET
from service_kit.capabilities import ReferenceGrant
from service_kit.channels import connect, wait_ready
from service_kit.clock import SystemClock
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import Callers, grant
from tests.support.gcs import EMULATOR_ENV, emulator, make_buckets

LARGE_BYTES = 64 << 20
SMALL_COUNT, SMALL_SIDE = 1000, 182
"""A picture of noise of that side has 100 kB."""

STORES = ("directory", "emulated GCS")
WORKS = ("upload 64 MB", "upload 1,000 x 100 kB", "download 64 MB", "download 1,000 x 100 kB")
_TARGET = Target(0.6)
_AT_ONCE = 32
"""As many as a worker of sixteen slots has on their way, two for each stage. Plain clients are no slower with it."""
_PER_JOB = 50
_READY = timedelta(seconds=20)
_PREFIX = "bench"
_WARM_BYTES = 1 << 30


@dataclass(frozen=True)
class Files:
    """What is sent: a video of 64 MB, and a thousand pictures; and a short video to begin with."""

    large: Path
    small: tuple[Path, ...]
    short: Path

    def size_mb(self, work: str) -> float:
        """Return how many megabytes a work moves."""
        paths = (self.large,) if work.endswith("64 MB") else self.small
        return sum(path.stat().st_size for path in paths) / 1e6


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return megabytes a second by name, one for each round: everybody in turn."""
    samples: dict[str, list[float]] = defaultdict(list)
    files = _make_files(folder / "files")
    # What made the files, and the plain clients, are none of a worker's: its collector would walk through them in
    # every third round.
    gc.collect()
    gc.freeze()
    with ExitStack() as stack:
        address = stack.enter_context(emulator())
        make_buckets(address, _PREFIX)
        for number in range(rounds):
            for store in STORES:
                environment = (
                    {} if store == STORES[0] else {"ATELIER_BLOBS_URL": f"gs://{_PREFIX}", EMULATOR_ENV: address}
                )
                place = folder / f"{number}-{store.split()[-1]}"
                place.mkdir()
                with _environment(environment):
                    _round(samples, store, files, place)
                shutil.rmtree(place)
    return dict(samples)


def table(samples: Mapping[str, Sequence[float]], rounds: int) -> list[Line]:
    """Return the lines of the table: Atelier's figure, and its ratio to the plain client of the same store.

    Raises:
        PeerMissing: somebody was not measured in every round.
    """
    names = [f"{who}, {store}: {work}" for who in ("Atelier", "plain client") for store in STORES for work in WORKS]
    require_all(samples, names, rounds)
    lines = []
    for store in STORES:
        for work in WORKS:
            ours, theirs = (
                Series(f"{who}, {store}: {work}", "MB/s", tuple(samples[f"{who}, {store}: {work}"]))
                for who in ("Atelier", "plain client")
            )
            lines.append(Line(ours, ratio(ours, theirs), _TARGET, note=f"plain client {theirs.median:.0f} MB/s"))
    return lines


def _round(samples: dict[str, list[float]], store: str, files: Files, place: Path) -> None:
    plain = _PlainDirectory(place / "plain") if store == STORES[0] else _PlainGcs(place / "plain")
    for work in WORKS:
        _warm_memory()
        began = time.perf_counter()
        plain.do(work, files)
        samples[f"plain client, {store}: {work}"].append(files.size_mb(work) / (time.perf_counter() - began))
    with _service(place / "data") as target:
        for work, seconds in asyncio.run(_atelier(target, place, files)).items():
            samples[f"Atelier, {store}: {work}"].append(files.size_mb(work) / seconds)
    # Not before: ext4 looks long for a free inode right after so many were freed.
    plain.clear()


class Lease(NamedTuple):
    """A job's lease: the token is the router's work, done before the clock starts."""

    job_id: str
    token: str


@dataclass
class _Jobs:
    """A worker's side: leases of jobs, and the receipts of what they delivered."""

    callers: Callers
    channel: grpc.aio.Channel
    handover: Path
    whole_outputs: WholeOutputs
    whole_references: WholeReferences
    receipts: dict[str, dict[int, str]] = field(default_factory=dict)
    media: dict[str, media_pb2.Media] = field(default_factory=dict)

    def sign(self, references: tuple[ReferenceGrant, ...] = ()) -> Lease:
        """Return the lease of a new job, as the router signs it."""
        job_id = new_id()
        claims = self.callers.lease(
            job_id, max_outputs=_PER_JOB, max_bytes=1 << 30, formats=("image", "video"), references=references
        )
        return Lease(job_id, self.callers.capabilities.sign_lease(claims))

    def leases_for(self, paths: Sequence[Path]) -> list[Lease]:
        """Return the leases of as few jobs as it takes for files to be their outputs."""
        return [self.sign() for _ in range(0, len(paths), _PER_JOB)]

    async def upload(self, leases: Sequence[Lease], paths: Sequence[Path]) -> None:
        """Upload files as outputs."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(job_id: str, transfers: Transfers, index: int, path: Path) -> None:
            async with turns:
                receipt = await transfers.upload_output(index, path, {})
            self.receipts.setdefault(job_id, {})[index] = receipt

        async with asyncio.TaskGroup() as group:
            for number, lease in enumerate(leases):
                transfers = self._transfers(lease)
                for index, path in enumerate(paths[number * _PER_JOB : (number + 1) * _PER_JOB]):
                    group.create_task(one(lease.job_id, transfers, index, path))

    async def settle(self) -> list[ReferenceGrant]:
        """Publish what was uploaded. Returns the right to read each, as the router puts it into a lease."""
        grants = []
        for job_id, receipts in self.receipts.items():
            await self.callers.settle(job_id, receipts)
            held = await self.callers.hold("save:bench", *(asset_id(job_id, index) for index in receipts))
            grants += [(one.asset.media, grant(one)) for one in held.held]
        self.receipts.clear()
        self.media = {reference.asset_id: media for media, reference in grants}
        return [reference for _, reference in grants]

    async def download(self, wanted: Sequence[tuple[ReferenceGrant, Lease]], folder: Path) -> None:
        """Read references, each under a lease of its own."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(name: str, lease: Lease) -> None:
            async with turns:
                await self._transfers(lease).read_reference(name, self.media[name], folder / name)

        async with asyncio.TaskGroup() as group:
            for reference, lease in wanted:
                group.create_task(one(reference.asset_id, lease))

    def _transfers(self, lease: Lease) -> Transfers:
        return Transfers(
            self.channel,
            lease.token,
            Patience(),
            handover=self.handover,
            whole_outputs=self.whole_outputs,
            whole_references=self.whole_references,
        )


async def _atelier(target: str, place: Path, files: Files) -> dict[str, float]:
    """Return how many seconds each work takes."""
    taken: dict[str, float] = {}
    channel = connect(target)
    try:
        await wait_ready(channel, _READY)
        # A worker on the same machine has the same data folder.
        handover = place / "data" / "handover"
        jobs = _Jobs(
            Callers(place / "data", SystemClock(), channel),
            channel,
            handover,
            WholeOutputs(channel, handover=handover),
            WholeReferences(channel, handover=handover),
        )
        # Start the process that measures files, and have it load what it reads videos with: a service that runs has it.
        await jobs.upload([jobs.sign()], (files.small[0], files.short))
        for number, paths in enumerate(((files.large,), files.small)):
            taken[WORKS[number]] = await _timed(partial(jobs.upload, jobs.leases_for(paths), paths))
            wanted = [(one, jobs.sign((one,))) for one in (await jobs.settle())[-len(paths) :]]
            taken[WORKS[number + 2]] = await _timed(partial(jobs.download, wanted, place))
    finally:
        await channel.close()
    return taken


def _warm_memory() -> None:
    """Touch memory and give it back, so that what is measured next gets pages the machine has.

    A virtual machine that returns free memory to its host gets it again at a tenth of the speed of memory it has: who
    came first in a round got warm pages, and who came second got cold ones.
    """
    with mmap.mmap(-1, _WARM_BYTES) as memory:
        for offset in range(0, _WARM_BYTES, mmap.PAGESIZE):
            memory[offset] = 1


async def _timed(work: Callable[[], Awaitable[None]]) -> float:
    _warm_memory()
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


class _PlainDirectory:
    """Copies files, and syncs each and its folder to the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def do(self, work: str, files: Files) -> None:
        """Do one of the works."""
        paths = (files.large,) if work.endswith("64 MB") else files.small
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._write if work.startswith("upload") else self._read, paths))

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder)

    def _write(self, path: Path) -> None:
        target = self._folder / path.name
        shutil.copyfile(path, target)
        for name in (target, self._folder):
            descriptor = os.open(name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _read(self, path: Path) -> None:
        shutil.copyfile(self._folder / path.name, self._folder / f"{path.name}.read")


class _PlainGcs:
    """Uses the official client alone, with as many threads as we have requests under way."""

    def __init__(self, folder: Path) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        folder.mkdir()
        self._folder = folder
        # No call needs a project: the bucket is there.
        client = storage.Client(project="bench", credentials=AnonymousCredentials())
        self._bucket = client.bucket(f"{_PREFIX}-{WORKSPACE_BUCKET}")
        self._run = new_id()

    def do(self, work: str, files: Files) -> None:
        """Do one of the works."""
        paths = (files.large,) if work.endswith("64 MB") else files.small
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(self._write if work.startswith("upload") else self._read, paths))

    def clear(self) -> None:
        """Remove everything."""
        for blob in list(self._bucket.list_blobs()):
            blob.delete()
        shutil.rmtree(self._folder)

    def _write(self, path: Path) -> None:
        blob = self._bucket.blob(f"{self._run}/{path.name}")
        blob.upload_from_filename(str(path), if_generation_match=0, checksum="crc32c")

    def _read(self, path: Path) -> None:
        blob = self._bucket.blob(f"{self._run}/{path.name}")
        blob.download_to_filename(str(self._folder / f"{path.name}.read"), checksum="crc32c")


@contextmanager
def _service(data_dir: Path) -> Iterator[str]:
    """Run an asset service; give its address."""
    (port,) = free_ports(1)
    target = f"127.0.0.1:{port}"
    environment = os.environ | {
        "ATELIER_DATA_DIR": str(data_dir),
        "ATELIER_ASSET_LISTEN": target,
        "ATELIER_LOG_LEVEL": "warning",
        # Workers send them with their outputs; here only the outputs are measured.
        "ATELIER_ASSET_FILL_RENDITIONS": "false",
    }
    with (data_dir.parent / "asset.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "asset_service"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _READY.total_seconds()
        while not (data_dir / "keys").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        yield target
    finally:
        process.terminate()
        process.wait(_READY.total_seconds())


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_files(folder: Path) -> Files:
    """Make the files: noise, which nothing makes smaller."""
    folder.mkdir()
    small = []
    for number in range(SMALL_COUNT):
        path = folder / f"{number}.png"
        path.write_bytes(_picture(number))
        small.append(path)
    return Files(_video(folder / "large.mp4", LARGE_BYTES), tuple(small), _video(folder / "short.mp4", 1))


def _picture(seed: int) -> bytes:
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(0, 255, (SMALL_SIDE, SMALL_SIDE, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG", compress_level=1)
    return target.getvalue()


def _video(path: Path, size_bytes: int) -> Path:
    """Write a video of at least that size: as many frames of noise as it takes."""
    import av
    import numpy as np

    random = np.random.default_rng(0)
    written = 0
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast", "qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        while written < size_bytes:
            pixels = random.integers(0, 255, (720, 1280, 3), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                written += packet.size
                container.mux(packet)
        container.mux(stream.encode())
    return path
