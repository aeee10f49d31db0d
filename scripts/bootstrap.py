#!/usr/bin/env python3
"""Makes the environment in `.venv`, or brings it up to date; does nothing when it is.

    python3 scripts/bootstrap.py runtime    what `make demo` needs
    python3 scripts/bootstrap.py dev        also what `make test` and `make lint` need
    python3 scripts/bootstrap.py stubs      only the stubs of `protos/`, when those changed

Standard library only, and kept to what Python 3.6 can parse, so that an old Python is told what is wrong instead of
failing on the syntax. One run at a time: a second one waits for the first.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import typing

OLDEST = (3, 11)
# What the environment, pip's temporary files and the demo's own files take, with room to spare.
NEEDED_MB = {"runtime": 1000, "dev": 1500}
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
BUILD = os.path.join(ROOT, "build")
STAMP = os.path.join(VENV, "atelier-stamp.json")
TOOLS = os.path.join(VENV, "stub-tools")
LOG = os.path.join(BUILD, "install.log")
# A change of these, or of what pyproject.toml says about the package, needs a new install; one of protos/ new stubs.
INSTALL_INPUTS = ("constraints.txt", "hatch_build.py")


class Missing(Exception):
    """Something that this machine lacks; the message says what to do."""


def say(text: str) -> None:
    """Print one line of progress at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def starts(python: str) -> bool:
    """Tell whether there is a Python of this name that runs; a version manager leaves names that do not."""
    if not shutil.which(python):
        return False
    return subprocess.call([python, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0


def check_python() -> None:
    """Refuse a Python that is too old, and name a newer one when there is one."""
    if sys.version_info[:2] >= OLDEST:
        return
    newer = [name for name in ("python3.14", "python3.13", "python3.12", "python3.11") if starts(name)]
    remedy = "run: make PYTHON={} ...".format(newer[0]) if newer else "install it and run: make PYTHON=python3.12 ..."
    found = "{}.{}".format(*sys.version_info[:2])
    raise Missing("Python {} ({}) is too old: Atelier needs 3.11 or newer; {}".format(found, sys.executable, remedy))


def check_venv_module() -> None:
    """Refuse a Python without `venv` or `ensurepip`, which Debian and Ubuntu package on their own."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        version = "{}.{}".format(*sys.version_info[:2])
        raise Missing(
            "This Python ({}) has no module {!r}, which making an environment needs. On Debian or Ubuntu run: sudo apt "
            "install python{}-venv (or python3-venv); then try again".format(sys.executable, error.name, version)
        ) from error


def check_space(level: str) -> None:
    """Refuse to start an install that the disk cannot hold."""
    free_mb = shutil.disk_usage(ROOT).free // 1000000
    if free_mb < NEEDED_MB[level]:
        raise Missing(
            "{} MB are free in {}, and the environment needs {} MB: free some space, or clone to another disk".format(
                free_mb, ROOT, NEEDED_MB[level]
            )
        )


def digest(paths: "list[str]") -> str:
    """Return one digest of the names and contents of these files."""
    total = hashlib.sha256()
    for path in sorted(paths):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
        total.update("{} {}\n".format(os.path.relpath(path, ROOT), content).encode())
    return total.hexdigest()


def packaging() -> str:
    """Return what pyproject.toml says about the package; how the code is checked needs no new install."""
    import tomllib

    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        project = tomllib.load(file)
    return json.dumps([project.get("build-system"), project.get("project"), project.get("tool", {}).get("hatch")])


def wanted_stamp(level: str) -> "dict[str, str]":
    """Return what the stamp file of an environment that is up to date says."""
    protos = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(os.path.join(ROOT, "protos"))
        for name in names
        if name.endswith(".proto")
    ]
    return {
        "level": level,
        "root": ROOT,
        "python": "{}.{}.{}".format(*sys.version_info[:3]),
        "install": digest([os.path.join(ROOT, name) for name in INSTALL_INPUTS]),
        "packaging": packaging(),
        "protos": digest(protos),
    }


def read_stamp() -> "dict[str, str]":
    """Return what the environment was made from; empty when there is none, or none that works."""
    try:
        with open(STAMP) as file:
            stamp = dict(json.load(file))
        subprocess.run([VENV_PYTHON, "-c", ""], check=True, stdin=subprocess.DEVNULL)
    except (OSError, ValueError, subprocess.CalledProcessError):
        return {}
    return stamp


def run(command: "list[str]", doing: str) -> None:
    """Run a command quietly; show the end of its output when it fails.

    Raises:
        Missing: it failed; the message names the log file and the likeliest remedy.
    """
    with open(LOG, "a") as log:
        log.write("$ {}\n".format(" ".join(command)))
        log.flush()
        code = subprocess.call(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
    if code != 0:
        with open(LOG) as log:
            tail = "".join(log.readlines()[-25:])
        raise Missing(
            "{}\n{} failed (the whole output is in {}). If it could not reach the package index, check the network or "
            "the settings PIP_INDEX_URL and HTTPS_PROXY, and run the same command again".format(tail, doing, LOG)
        )


def install(level: str, reuse: bool) -> None:
    """Install the checkout into `.venv`, editable, at the versions of constraints.txt; `reuse` keeps what is there."""
    check_venv_module()
    check_space(level)
    steps = 3 if level == "dev" else 2
    if reuse:
        say("[1/{}] the environment in {} is kept".format(steps, VENV))
        remove_stubs()
    else:
        say("[1/{}] making the environment in {}".format(steps, VENV))
        run([sys.executable, "-m", "venv", "--clear", VENV], "Making the environment")
    what, target = ("Atelier and its development tools", ".[dev]") if level == "dev" else ("Atelier", ".")
    say("[2/{}] installing {} (about half a minute; needs the package index)".format(steps, what))
    pip_install(["-c", "constraints.txt", "-e", target], "Installing")
    shutil.rmtree(TOOLS, ignore_errors=True)
    if level == "dev":
        say("[3/3] installing the stub generator")
        install_stub_tools()


def pip_install(arguments: "list[str]", doing: str) -> None:
    """Install into `.venv` without questions."""
    pip = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    run(pip + arguments, doing)


def ask_environment(code: str) -> "typing.Any":
    """Return what an expression is worth to the environment's own Python, by way of JSON."""
    command = [VENV_PYTHON, "-c", "import json, sysconfig, tomllib; print(json.dumps({}))".format(code)]
    return json.loads(subprocess.check_output(command, cwd=ROOT).decode())


def install_stub_tools() -> None:
    """Install what the build needs beside the environment: its protobuf is older than the one that runs."""
    requires = ask_environment("tomllib.load(open('pyproject.toml', 'rb'))['build-system']['requires']")
    shutil.rmtree(TOOLS + ".new", ignore_errors=True)
    pip_install(["--target", TOOLS + ".new", *requires], "Installing the stub generator")
    os.rename(TOOLS + ".new", TOOLS)


def remove_stubs() -> str:
    """Remove the generated package, also files that no .proto file makes any longer, and return where it was."""
    stubs = os.path.join(str(ask_environment("sysconfig.get_path('purelib')")), "atelier")
    shutil.rmtree(stubs, ignore_errors=True)
    return stubs


def generate_stubs() -> None:
    """Generate the stubs of `protos/` into the environment, without a new install."""
    if not os.path.isdir(TOOLS):
        say("installing the stub generator")
        install_stub_tools()
    fresh = os.path.join(VENV, "stubs.new")
    shutil.rmtree(fresh, ignore_errors=True)
    path = os.path.join(TOOLS, "bin") + os.pathsep + os.environ["PATH"]
    code = subprocess.call(
        [VENV_PYTHON, "hatch_build.py", fresh], cwd=ROOT, env=dict(os.environ, PYTHONPATH=TOOLS, PATH=path)
    )
    if code != 0:
        raise Missing("The stubs were not generated and the old ones are still in place: see the message above")
    os.rename(os.path.join(fresh, "atelier"), remove_stubs())


def bring_up_to_date(level: str) -> None:
    """Install, or generate stubs, or do nothing: whatever the difference to the stamp asks for."""
    stamp = read_stamp()
    if level == "stubs" or stamp.get("level") == "dev":
        level = stamp.get("level", "dev")
    wanted = wanted_stamp(level)
    if stamp == wanted:
        return
    started = time.monotonic()
    with open(LOG, "w"):
        pass  # the log is of this run alone
    if dict(stamp, protos="") == dict(wanted, protos=""):
        say("protos/ changed: generating the stubs")
        generate_stubs()
    else:
        install(level, reuse=all(stamp.get(name) == wanted[name] for name in ("root", "python")))
    with open(STAMP, "w") as file:
        json.dump(wanted, file, indent=1)
    say("the environment is up to date ({:.0f} s)".format(time.monotonic() - started))


def main() -> int:
    """Run as a command: 0 when the environment is up to date, 1 when something is missing."""
    level = sys.argv[1] if len(sys.argv) == 2 else ""
    if level not in ("runtime", "dev", "stubs"):
        sys.stderr.write("usage: bootstrap.py runtime|dev|stubs\n")
        return 2
    try:
        check_python()
        os.makedirs(BUILD, exist_ok=True)
        import fcntl

        with open(os.path.join(BUILD, "bootstrap.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            bring_up_to_date(level)
    except Missing as error:
        sys.stderr.write(str(error) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
