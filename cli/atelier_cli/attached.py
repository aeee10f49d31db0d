"""Runs a module as a child that ends with its parent: `python -m atelier_cli.attached MODULE`.

The parent holds the other end of stdin. When it is gone, however it died, stdin ends: the child is asked to end, and
after a grace its whole process group is killed. This works on every system, and needs nothing of the module.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

# Longer than a worker drains.
GRACE_SECONDS = 15.0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    # Only a process that leads its own group may kill it: anything else would kill bystanders.
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module that the command line names."""
    module, *arguments = sys.argv[1:]
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
