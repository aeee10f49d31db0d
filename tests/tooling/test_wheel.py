"""The wheel alone is a whole Atelier."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import httpx
import pytest

from scripts import bootstrap

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = [Path(name) for name in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    tools = Path(bootstrap.TOOLS)
    path = os.pathsep.join([str(tools / "bin"), os.environ["PATH"]])
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tools), "PATH": path},
        check=True,
        capture_output=True,
    )
    return next(folder.glob("*.whl"))


def test_it_holds_every_file_of_every_package(wheel: Path) -> None:
    expected = {
        file.relative_to(ROOT / package.parent).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {package.name for package in PACKAGES} <= {name.split("/")[0] for name in names}
    assert expected - names == set()


def test_it_holds_stubs_types_and_descriptors(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for proto in (ROOT / "protos").rglob("*.proto"):
        stem = proto.relative_to(ROOT / "protos").with_suffix("").as_posix()
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py", f"{stem}_pb2_grpc.pyi"} <= names
    assert "atelier/descriptors.binpb" in names


def test_it_holds_nothing_of_the_checkout_besides(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"atelier", *(p.name for p in PACKAGES)}


class Outside:
    """The unpacked wheel in a folder of its own, with the checkout out of sight."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        self.folder = folder
        self.site = folder / "site"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)
        self.environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.site), "HOME": str(folder)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `atelier` with these arguments, its output on pipes."""
        code = "import sys, atelier_cli.__main__ as cli; sys.exit(cli.main())"
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run `atelier` to its end and return exit code, output and complaints."""
        with self.start(*arguments) as process:
            output, complaints = process.communicate(timeout=60)
        return process.returncode, output, complaints

    def configure(self) -> str:
        """Give the services of this folder ports that nobody else uses, and return the gateway's URL."""
        router, asset, library, gateway = free_addresses(4)
        (self.folder / "atelier.toml").write_text(
            f"""
            [core]
            data_dir = "{self.folder / "data"}"
            [router]
            listen = "{router}"
            asset_target = "{asset}"
            [asset]
            listen = "{asset}"
            [library]
            listen = "{library}"
            asset_target = "{asset}"
            identity_target = "{router}"
            [gateway]
            listen = "{gateway}"
            router_target = "{router}"
            asset_target = "{asset}"
            library_target = "{library}"
            [worker]
            connect = "{router}"
            [sketch]
            step_delay = "0s"
            """,
            encoding="utf-8",
        )
        return f"http://{gateway}"


def free_addresses(count: int) -> list[str]:
    """Return addresses on this machine where nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture
def outside(wheel: Path, tmp_path: Path) -> Outside:
    return Outside(wheel, tmp_path)


def test_its_command_runs_from_the_wheel(outside: Outside) -> None:
    code = "import atelier_cli, service_kit; print(atelier_cli.__file__, service_kit.__file__)"
    found = subprocess.check_output(
        [sys.executable, "-c", code], cwd=outside.folder, env=outside.environment, text=True
    )
    assert found.count(str(outside.site)) == 2
    assert outside.run("--version") == (0, "atelier 0.1.0\n", "")


def wait_until_ready(up: subprocess.Popen[str], url: str) -> None:
    """Return when the health route answers 200; fail when `up` ends first, or after 60 s."""
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=url, timeout=5) as client:
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                if client.get("/v1/health").status_code == 200:
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                up.wait(timeout=0.05)
                pytest.fail(f"atelier up ended: {up.communicate()}")
    pytest.fail("atelier up was not ready after 60 s")


def test_it_starts_and_makes_a_picture(outside: Outside) -> None:
    url = outside.configure()
    up = outside.start("up")
    try:
        wait_until_ready(up, url)
        code, _, complaints = outside.run("generate", "a red bicycle", "--out", str(outside.folder / "out"))
    finally:
        up.send_signal(signal.SIGINT)
        _, last_words = up.communicate(timeout=20)
    assert code == 0, complaints + last_words
    [picture] = (outside.folder / "out").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "Traceback" not in last_words
