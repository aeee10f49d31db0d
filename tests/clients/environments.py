"""One environment for each client, with its own versions: `python -m tests.clients.environments build/clients`.

A folder beside this file is a client: `requirements.txt` makes a virtual environment, `package.json` a folder of npm.
What is there already is kept until its file changes.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE.parents[1] / "build" / "clients"


@dataclass(frozen=True)
class Client:
    """A client: the folder of its calls, and where its environment is."""

    folder: Path
    built: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_python(self) -> bool:
        return (self.folder / "requirements.txt").exists()

    @property
    def versions(self) -> Path:
        return self.folder / ("requirements.txt" if self.is_python else "package.json")

    @property
    def stamp(self) -> str:
        return hashlib.sha256(self.versions.read_bytes()).hexdigest()

    @property
    def ready(self) -> bool:
        mark = self.built / "installed"
        return mark.exists() and mark.read_text("utf-8") == self.stamp

    @property
    def command(self) -> Sequence[str]:
        """What runs its calls, in the folder of its environment."""
        if self.is_python:
            return [str(self.built / "bin" / "python"), str(self.folder / "calls.py")]
        # Modules are looked for beside the file that imports them.
        return ["node", str(self.built / "calls" / self.name / "calls.mjs")]

    def make(self) -> None:
        """Make the environment anew."""
        shutil.rmtree(self.built, ignore_errors=True)
        self.built.mkdir(parents=True)
        if self.is_python:
            _run([sys.executable, "-m", "venv", str(self.built)])
            pip = [str(self.built / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
            _run([*pip, "-r", str(self.versions)])
        else:
            shutil.copy(self.versions, self.built)
            _run(["npm", "install", "--prefix", str(self.built), "--no-audit", "--no-fund", "--loglevel=error"])
        (self.built / "installed").write_text(self.stamp, "utf-8")

    def bring_calls(self) -> None:
        """Copy the calls of a JavaScript client to where its modules are."""
        if not self.is_python:
            target = self.built / "calls"
            shutil.rmtree(target, ignore_errors=True)
            (target / self.name).mkdir(parents=True)
            shutil.copy(HERE / "runner.mjs", target)
            shutil.copy(self.folder / "calls.mjs", target / self.name)


def clients(built: Path = BUILT) -> list[Client]:
    """Return every client, by name."""
    found = [Client(folder, built / folder.name) for folder in sorted(HERE.iterdir()) if folder.is_dir()]
    return [client for client in found if client.is_python or (client.folder / "package.json").exists()]


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    for one in clients(Path(sys.argv[1]).resolve()):
        if not one.ready:
            sys.stdout.write(f"making the environment of {one.name}\n")
            sys.stdout.flush()
            one.make()
