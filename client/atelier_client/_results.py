"""What both clients conclude from a job, and from a download's source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atelier_client._download import Arriving, filename_of, filename_of_url, target_of
from atelier_client.errors import AtelierError, JobFailed
from atelier_client.models import Asset, Generated, Item, Job, Page

Source = Asset | Item | str


def succeeded(job: Job) -> Job:
    """Return the job. Raises JobFailed when it ended without a result."""
    if job.state in ("failed", "cancelled"):
        raise JobFailed(job)
    return job


def generated(job: Job, page: Page[Asset]) -> Generated:
    """Return a job with its assets in the order of their index."""
    return Generated(job, tuple(sorted(page, key=lambda asset: asset.asset_index)))


@dataclass(frozen=True, slots=True)
class Fetch:
    """One file to download: from where, to where, what its bytes must be, and what the gateway is asked to pack."""

    url: str
    target: Path
    size_bytes: int = 0
    sha256: str = ""
    asked: Mapping[str, Any] | None = None

    @classmethod
    def archive(cls, url: str, asked: Mapping[str, Any], to: Path | str) -> Fetch:
        """Plan a download of many items as one file, which the gateway packs for whoever has the key."""
        return cls(f"{url}/v1/items.zip", target_of(Path(to), "atelier.zip"), asked=asked)

    @classmethod
    def of(cls, source: Source, to: Path | str) -> Fetch:
        """Plan a download of an asset, an item or a signed address into a file or a folder."""
        if isinstance(source, str):
            return cls(source, target_of(Path(to), filename_of_url(source)))
        if not source.url:
            raise AtelierError(f"{filename_of(source)} has no address: it is {getattr(source, 'state', 'gone')}.")
        return cls(source.url, target_of(Path(to), filename_of(source)), source.media.size_bytes, source.media.sha256)

    def arriving(self) -> Arriving:
        """Return the file to write."""
        return Arriving(self.target, size_bytes=self.size_bytes, sha256=self.sha256)
