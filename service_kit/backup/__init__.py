"""Backups: one moment of all databases, the keys, and the blobs that the databases knew at that moment.

While the copy is made the services delete no blob (`deletion_pause`), so every blob of that moment is still there.
"""

from __future__ import annotations

from service_kit.backup.backup import Done, back_up
from service_kit.backup.restore import restore
from service_kit.backup.source import KeptBlobs, KnownBlob, Place, Service

__all__ = ["Done", "KeptBlobs", "KnownBlob", "Place", "Service", "back_up", "restore"]
