"""Cleans up behind a run that was killed: `python -m faults.guard FOLDER`, whose parent holds its standard input.

When that ends, every server of PostgreSQL below the folder is killed, what is mounted there is unmounted, and the
folder is removed. The services end by themselves.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Wait for the end of the parent, and clean up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.buffer.read()
    folder = Path(sys.argv[1])
    for file in folder.glob("*/pgdata/postmaster.pid"):
        # Its children notice, and end as well.
        with suppress(OSError, ValueError):
            os.kill(int(file.read_text().split("\n", 1)[0]), signal.SIGQUIT)
    for line in Path("/proc/mounts").read_text("utf-8").splitlines() if Path("/proc/mounts").exists() else []:
        mounted = line.split()[1]
        if mounted.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
