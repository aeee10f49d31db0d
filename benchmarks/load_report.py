"""The two tables of the load: durable jobs per second, and dispatch latency, each beside its peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.comparison import Series, Target, better, ratio, require_all
from benchmarks.peers.environment import settings
from benchmarks.rounds import TEXT_JOBS

_TARGETS = {"procrastinate": Target(4.0), "Celery": Target(1.2), "bare gRPC echo": Target(0.2)}
_LIMITS = {
    "idle, p50": Target(5.0, at_least=False),
    "half load, p99": Target(25.0, at_least=False),
}
_WAITS = ("idle, p50", "idle, p99", "half load, p50", "half load, p99")
_FLOORS = "PostgreSQL floor"


@dataclass(frozen=True)
class Line:
    """A row of a table: a figure, Atelier's ratio to it, and what that has to reach."""

    figure: Series
    ratio: Series | None = None
    target: Target | None = None
    note: str = ""

    @property
    def judged(self) -> float:
        """The median that the target is for: of the ratio, where there is one."""
        return (self.ratio or self.figure).median


def names_of(peer: str, section: str) -> list[str]:
    """Return what a peer's alternatives are called in the figures."""
    return [f"{peer}, {alternative['name']}" for alternative in settings(section)["alternatives"]]


def jobs_table(samples: Mapping[str, Sequence[float]], rounds: int) -> list[Line]:
    """Return durable jobs per second: Atelier, its peers, the floor.

    Raises:
        PeerMissing: somebody was not measured in every round.
    """
    peers = _peers() | {"bare gRPC echo": names_of("bare gRPC echo", "echo")}
    floors = names_of(_FLOORS, "floor")
    names = ["Atelier", TEXT_JOBS, *(name for alternatives in peers.values() for name in alternatives), *floors]
    require_all(samples, [f"{name}: jobs/s" for name in names], rounds)
    ours = _series(samples, "Atelier", "jobs/s", "1/s")
    texts = _series(samples, TEXT_JOBS, "jobs/s", "1/s")
    lines = [Line(ours, note=_share(samples, "Atelier")), Line(texts, note=_share(samples, TEXT_JOBS))]
    for peer, alternatives in peers.items():
        theirs = better([_series(samples, name, "jobs/s", "1/s") for name in alternatives])
        lines.append(Line(theirs, ratio(ours, theirs), _TARGETS[peer], _share(samples, theirs.name)))
    for name in floors:
        theirs = _series(samples, name, "jobs/s", "1/s")
        lines.append(Line(theirs, ratio(ours, theirs)))
    return lines


def dispatch_table(samples: Mapping[str, Sequence[float]], rounds: int) -> list[Line]:
    """Return the milliseconds from submission until a worker has the job: Atelier, its peers.

    Raises:
        PeerMissing: somebody was not measured in every round.
    """
    names = ["Atelier", *(name for alternatives in _peers().values() for name in alternatives)]
    require_all(samples, [f"{name}: {kind}" for name in names for kind in _WAITS], rounds)
    lines = []
    for kind in _WAITS:
        ours = _series(samples, "Atelier", kind, "ms", called=f"Atelier, {kind}")
        lines.append(Line(ours, target=_LIMITS.get(kind)))
        for alternatives in _peers().values():
            theirs = better([_series(samples, name, kind, "ms") for name in alternatives], higher=False)
            lines.append(Line(theirs, ratio(ours, theirs)))
    return lines


def markdown(lines: Sequence[Line]) -> str:
    """Return lines as a Markdown table."""
    rows = [
        "| | median | min .. max | Atelier's ratio | min .. max | to reach | load's processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        figure = f"{_number(line.figure.median)} {line.figure.unit}"
        cells = [line.figure.name, figure, _spread(line.figure)]
        cells += [f"{line.ratio.median:.2f} x", _spread(line.ratio)] if line.ratio else ["", ""]
        rows.append(f"| {' | '.join([*cells, _verdict(line), line.note])} |")
    return "\n".join(rows)


def _peers() -> dict[str, list[str]]:
    return {"procrastinate": names_of("procrastinate", "procrastinate"), "Celery": names_of("Celery", "celery")}


def _series(samples: Mapping[str, Sequence[float]], name: str, kind: str, unit: str, called: str = "") -> Series:
    return Series(called or name, unit, tuple(samples[f"{name}: {kind}"]))


def _share(samples: Mapping[str, Sequence[float]], name: str) -> str:
    """Return how much of a core the load took: what submits and, where there are any, what plays the workers."""
    shares = Series(name, "", tuple(samples[f"{name}: load's share"]))
    return f"{shares.median:.0%} of a core"


def _verdict(line: Line) -> str:
    if line.target is None:
        return ""
    sign, unit = ("≥" if line.target.at_least else "≤"), ("x" if line.ratio else line.figure.unit)
    reached = "reached" if line.target.is_reached(line.judged) else "MISSED"
    return f"{sign} {line.target.value:g} {unit}: {reached}"


def _spread(series: Series) -> str:
    return " .. ".join(_number(value) for value in series.spread)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
