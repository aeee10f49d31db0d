"""The GPUs of this machine and their memory, as the driver's own tool tells it: nothing heavy has to be imported."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits")
_LIMIT_S = 10.0
_MIB = 1 << 20

Run = Callable[[Sequence[str]], str | None]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, as `cuda:0`, with what memory it has and has free, whoever uses the rest."""

    device: str
    name: str
    total_bytes: int
    free_bytes: int


def run_tool(command: Sequence[str]) -> str | None:
    """Return what a tool writes, or None when it is not there, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=True)  # noqa: S603 - a fixed list
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def find_gpus(run: Run = run_tool) -> list[Gpu]:
    """Return the GPUs of this machine; none where there is no NVIDIA driver."""
    gpus = []
    for line in (run(_QUERY) or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 4 and all(fields[at].isdecimal() for at in (0, 2, 3)):
            gpus.append(Gpu(f"cuda:{fields[0]}", fields[1], int(fields[2]) * _MIB, int(fields[3]) * _MIB))
    return gpus
