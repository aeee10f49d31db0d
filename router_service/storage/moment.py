"""The moment of a transaction, by the database's clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(slots=True)
class Moment:
    """What the database's clock said when the transaction first asked; statements that read rows bring it along."""

    now: datetime | None = None

    def hear(self, now: datetime) -> None:
        """Note what the clock said, unless it was heard before: it is one moment for the whole transaction."""
        self.now = self.now or now
