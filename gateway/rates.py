"""How many requests a minute a key and its owner may make at this gateway. Each gateway counts for itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from datetime import timedelta

from service_kit.clock import Clock
from service_kit.errors import ErrorReason, FieldProblem, PermissionDenied, ResourceExhausted, Unauthenticated
from service_kit.identity import Caller, IdentityVerifier, Rates, Scope, parse_on_behalf_of
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_MINUTE_S = 60.0
# So much smaller than what one request uses up of any bucket that it only takes up the errors of additions.
_EPSILON_S = 1e-6


class Buckets:
    """Token buckets by name: each holds a minute's worth, and fills evenly. All are full in the beginning."""

    def __init__(self, clock: Clock, *, capacity: int = 100_000) -> None:
        """Remember the `capacity` buckets that were used last; of one that is forgotten the next request finds all."""
        self._clock = clock
        self._capacity = capacity
        # Of a bucket it is enough to know when it will be full: the generic cell rate algorithm (ITU-T I.371).
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def missing_s(self, name: Hashable, per_minute: int) -> float:
        """Return after how many seconds a bucket has a token; 0 when it has one now."""
        fills_in = self._full_at.get(name, 0.0) - self._clock.monotonic()
        missing = fills_in - (_MINUTE_S - _MINUTE_S / per_minute)
        return missing if missing > _EPSILON_S else 0.0

    def take(self, name: Hashable, per_minute: int) -> None:
        """Take a token that is there."""
        now = self._clock.monotonic()
        self._full_at[name] = max(self._full_at.get(name, 0.0), now) + _MINUTE_S / per_minute
        self._full_at.move_to_end(name)
        if len(self._full_at) > self._capacity:
            self._full_at.popitem(last=False)


class RateLimits:
    """Counts the requests of keys and owners."""

    def __init__(self, verifier: IdentityVerifier, buckets: Buckets, usual: Rates) -> None:
        """Count by the identity tokens that `verifier` trusts; `usual` holds where a token says nothing else."""
        self._verifier = verifier
        self._buckets = buckets
        self._usual = usual
        self._told = False

    def count(self, token: str, acting_for: str | None) -> None:
        """Count a request with an identity token, on behalf of the owner that it names, if any.

        Raises:
            ResourceExhausted: `too_many_requests`; names the limit. The request is not counted.
        """
        try:
            caller = self._verifier.verify(token)
            if acting_for is not None:
                caller = caller.acting_for(parse_on_behalf_of(acting_for))
        except (Unauthenticated, PermissionDenied) as error:
            self._note(error)
            return
        limits = [limit for limit in self._limits(caller) if limit[2]]
        for name, whose, per_minute in limits:
            missing_s = self._buckets.missing_s(name, per_minute)
            if missing_s:
                raise _too_many(whose, per_minute, missing_s)
        for name, _, per_minute in limits:
            self._buckets.take(name, per_minute)

    def _limits(self, caller: Caller) -> list[tuple[Hashable, str, int]]:
        """Return for the key and for the owner: the name of the bucket, whose it is, and how many a minute; 0 is any.

        The token knows the limit of its own owner only; others have the usual one.
        """
        own_rate = caller.rates.owner if caller.owner == caller.actor else None
        of_key = self._usual.key if caller.rates.key is None else caller.rates.key
        of_owner = self._usual.owner if own_rate is None else own_rate
        if Scope.SERVICE in caller.scopes:
            # The key is our own, and stands for whoever it acts for.
            of_key = None
        return [(caller.key_id, "key", of_key or 0), (caller.owner, "owner", of_owner or 0)]

    def _note(self, error: Unauthenticated | PermissionDenied) -> None:
        """Leave it to the services to refuse an identity; but say once that it is not counted here."""
        if not self._told:
            log.info("requests_not_counted", reason=error.reason.value, message=error.message)
            self._told = True


def _too_many(whose: str, per_minute: int, missing_s: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"The limit requests_per_minute of this {whose} is {per_minute}, at each gateway: repeat in "
        f"{max(1, round(missing_s + 0.5))} s, or ask the operator for more.",
        ErrorReason.TOO_MANY_REQUESTS,
        fields=[FieldProblem("requests_per_minute", f"is limited to {per_minute} for this {whose}")],
        retry_after=timedelta(seconds=missing_s),
    )
