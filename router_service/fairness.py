"""Who is next: an order among the waiting stages of all owners, and what an operator grants to some. Pure."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Self

from router_service.storage.limits import Party
from router_service.storage.queue import Candidate
from service_kit.errors import FailedPrecondition
from service_kit.identity import Owner

_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_SHARE = re.compile(r"(?P<tenant>[^/\s]+)/(?P<owner>\S+)(?P<grants>(\s+[a-z_]+=\d+)+)")


@dataclass(frozen=True, slots=True)
class Share:
    """What an owner is granted.

    Higher tiers go first. An owner of weight 2 has twice as much running as one of weight 1. `most_running` bounds how
    many stages of the owner run at once in one pool; 0 is no bound.
    """

    tier: int = 0
    weight: int = 1
    most_running: int = 0


@dataclass(frozen=True, slots=True)
class Shares:
    """The shares of all owners."""

    usual: Share
    granted: Mapping[Owner, Share]

    @classmethod
    def parse(cls, texts: Iterable[str], *, most_running: int) -> Self:
        """Read texts such as `default/ann tier=1 weight=2 most_running=8`; the rest have the usual share.

        Raises:
            FailedPrecondition: a text that is none.
        """
        usual = Share(most_running=most_running)
        granted = {}
        for text in texts:
            match = _SHARE.fullmatch(text.strip())
            grants = dict(grant.split("=") for grant in match["grants"].split()) if match else {}
            if (
                match is None
                or not grants.keys() <= {field.name for field in fields(Share)}
                or grants.get("weight") == "0"
            ):
                raise FailedPrecondition(
                    f"router.owner_shares: {text!r} is no share; write TENANT/OWNER and then some of tier=N, weight=N "
                    "(from 1) and most_running=N."
                )
            numbers = {name: int(number) for name, number in grants.items()}
            granted[Owner(match["tenant"], match["owner"])] = replace(usual, **numbers)
        return cls(usual, granted)

    def of(self, owner: Owner) -> Share:
        """Return the share of an owner."""
        return self.granted.get(owner, self.usual)

    @property
    def highest_tier(self) -> int:
        """The highest tier that is granted to anybody."""
        return max((share.tier for share in self.granted.values()), default=0)

    @property
    def is_bounded(self) -> bool:
        """Whether anybody's running stages are bounded."""
        return any(share.most_running for share in (self.usual, *self.granted.values()))


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates in the order in which they are to be leased. `is_cut`: only another look shows more."""

    candidates: tuple[Candidate, ...]
    is_cut: bool


def rank(
    candidates: Sequence[Candidate],
    running: Mapping[Owner, int],
    *,
    shares: Shares,
    last_served: Mapping[Owner, datetime],
    each: int,
    room: Mapping[Party, int] | None = None,
) -> Ranking:
    """Return the order of some candidates.

    Higher tiers first; then by (running + i) / weight for an owner's i-th candidate, counted from 0; then the owner
    that was served longest ago, then the oldest. Candidates above the bound of an owner or a key are dropped.

    Args:
        candidates: what waits: of each model, tier and key at most the first `each`.
        running: how many stages of each owner run.
        shares: what owners are granted.
        last_served: when owners were served; one that never was is absent.
        each: where a look stopped. What lies behind it is not known, so the order ends where it could come.
        room: how many stages more may run of owners and keys for which that is limited over all pools.
    """
    ranked: list[tuple[tuple[int, float, datetime, datetime, str], Candidate | None]] = []
    for owner, mine in _by_owner(candidates).items():
        share, busy = shares.of(owner), running.get(owner, 0)
        most = (room or {}).get(owner)
        seen: dict[tuple[str, str, int, str], int] = defaultdict(int)
        for place, candidate in enumerate(_within(mine, room or {})):
            if share.most_running and busy + place >= share.most_running:
                break
            if most is not None and place >= most:
                break
            load, since = (busy + place) / share.weight, last_served.get(owner, _LONG_AGO)
            ranked.append(((-candidate.tier, load, since, candidate.order_key, candidate.job_id), candidate))
            group = (candidate.worker_type, candidate.model, candidate.tier, candidate.key_id)
            seen[group] += 1
            if seen[group] == each:
                after = ((busy + place + 1) / share.weight, since, candidate.order_key, candidate.job_id)
                ranked.append(((-candidate.tier, *after), None))
    ranked.sort(key=lambda entry: entry[0])
    known = [candidate for _, candidate in ranked]
    cut = known.index(None) if None in known else len(known)
    return Ranking(tuple(candidate for candidate in known[:cut] if candidate is not None), cut < len(known))


def _within(mine: Iterable[Candidate], room: Mapping[Party, int]) -> Iterator[Candidate]:
    """Give an owner's candidates in their order, of each key no more than there is room for."""
    given: dict[str, int] = defaultdict(int)
    for candidate in mine:
        most = room.get(candidate.key_id)
        if most is None or given[candidate.key_id] < most:
            given[candidate.key_id] += 1
            yield candidate


def _by_owner(candidates: Sequence[Candidate]) -> dict[Owner, list[Candidate]]:
    """Return each owner's candidates in the order of the owner: by tier, priority and age."""
    by_owner: dict[Owner, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_owner[candidate.owner].append(candidate)
    for mine in by_owner.values():
        mine.sort(key=lambda candidate: (-candidate.tier, candidate.precedence, candidate.order_key, candidate.job_id))
    return by_owner
