"""Generates the stubs of `protos/` while a wheel, editable or not, is built.

The stubs become top-level files of the wheel (`atelier/<area>/v1/*_pb2.py`, `*_pb2_grpc.py` and their `.pyi`), beside
`atelier/descriptors.binpb`: every descriptor with its comments, which the descriptors at run time do not hold.

`python hatch_build.py FOLDER` writes the same files into FOLDER; it needs the packages of `[build-system] requires`.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
DESCRIPTORS = "atelier/descriptors.binpb"


def include_folders(protos: Path) -> list[Path]:
    """Return where protoc looks for imports: ours, google/api and google/rpc, google/protobuf."""
    googleapis = Path(str(importlib.metadata.distribution("googleapis-common-protos").locate_file("")))
    tools = importlib.util.find_spec("grpc_tools")
    if tools is None or tools.origin is None:
        raise RuntimeError("grpcio-tools is missing: install the packages of [build-system] requires in pyproject.toml")
    return [protos, googleapis, Path(tools.origin).parent / "_proto"]


def generate(protos: Path, out: Path) -> None:
    """Write the stubs, their types and the descriptor set of every file of `protos` below `out`.

    Raises:
        RuntimeError: there is nothing to generate from, or protoc refuses a file; its message names file and line.
    """
    files = sorted(path.relative_to(protos).as_posix() for path in protos.rglob("*.proto"))
    if not files:
        raise RuntimeError(f"no .proto file below {protos}: build from a complete checkout or source distribution")
    (out / "atelier").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "grpc_tools.protoc"]
    command += [f"--proto_path={folder}" for folder in include_folders(protos)]
    command += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command += ["--include_imports", "--include_source_info", f"--descriptor_set_out={out / DESCRIPTORS}"]
    result = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"protoc refuses the files below {protos}:\n{result.stderr.strip()}")
    for area in (path for path in (out / "atelier").iterdir() if path.is_dir()):
        (area / "py.typed").touch()


class StubsHook(BuildHookInterface[Any]):
    """Adds freshly generated stubs to the wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate into a folder of its own and name its files as part of the wheel, `editable` or `standard`."""
        self._out = Path(tempfile.mkdtemp(prefix="atelier-stubs-"))
        generate(Path(self.root) / "protos", self._out)
        target = "force_include_editable" if version == "editable" else "force_include"
        build_data[target][str(self._out / "atelier")] = "atelier"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what `initialize` made."""
        shutil.rmtree(self._out)


if __name__ == "__main__":
    try:
        generate(ROOT / "protos", Path(sys.argv[1]))
    except RuntimeError as error:
        sys.exit(str(error))
