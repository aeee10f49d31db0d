"""The tree of commands: quick, whole, and completed in every shell."""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atelier_cli.completions import Node, script, tree, walk
from atelier_cli.parser import SHELLS, build_parser
from tests.atelier_cli.conftest import Run
from tests.support.system import clean_environ

HEAVY = {"httpx", "rich", "grpc", "sqlalchemy", "asyncio", "service_kit.settings", "atelier_client"}


def handler_of(words: tuple[str, ...]) -> str:
    parser: argparse.ArgumentParser = build_parser()
    for word in words:
        (children,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
        parser = children.choices[word]
    return str(parser.get_default("handler"))


NODES = list(walk(tree(build_parser())))
# A command may have others below it, as `worker` has `worker init`.
COMMANDS = [node for node in NODES if handler_of(node.words) != "None"]


def test_help_imports_nothing_that_is_slow() -> None:
    code = (
        "import sys\nfrom atelier_cli.__main__ import main\n"
        "try: main(['generate', '--help'])\nexcept SystemExit: pass\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean_environ())
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("node", COMMANDS, ids=lambda node: " ".join(node.words))
def test_every_command_has_a_function_and_a_help(node: Node, run: Run) -> None:
    module, function = handler_of(node.words).split(":")
    assert callable(getattr(importlib.import_module(f"atelier_cli.commands.{module}"), function))
    done = run(*node.words, "--help")
    assert done.code == 0
    assert "exit codes: 0 ok, 1 job failed" in done.out
    assert node.help


def test_common_options_stand_before_or_after_the_command(run: Run) -> None:
    words = ("--set", "router.lease_ttl=11s", "--json")
    assert run(*words, "config", "show").out == run("config", "show", *words).out != run("config", "show", "--json").out


def test_the_documented_commands_are_there() -> None:
    commands = {" ".join(node.words) for node in COMMANDS}
    assert commands >= {
        *("up", "serve", "worker", "generate", "enhance", "config show", "migrate", "doctor", "completion"),
        *("jobs list", "jobs show", "jobs watch", "jobs cancel"),
        *("workspace list", "workspace show", "workspace open", "workspace download", "workspace discard"),
        *("library list", "library show", "library save", "library download", "library delete"),
        *("keys create", "keys list", "keys revoke", "models list", "models add", "models put", "models delete"),
    }


def bash_completes(tmp_path: Path, *words: str) -> set[str]:
    path = tmp_path / "atelier.bash"
    path.write_text(script("bash", build_parser()))
    code = f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _atelier; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", code, "bash", *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize("node", NODES, ids=lambda node: " ".join(node.words) or "atelier")
def test_bash_completes_every_command(node: Node, tmp_path: Path) -> None:
    expected = {child.words[-1] for child in node.children} | set(node.choices)
    expected |= {flag for option in node.options for flag in option.flags}
    assert bash_completes(tmp_path, "atelier", *node.words, "") >= expected


def test_bash_completes_values_and_behind_options(tmp_path: Path) -> None:
    assert bash_completes(tmp_path, "atelier", "generate", "x", "--quality", "") == {"draft", "standard", "high"}
    assert bash_completes(tmp_path, "atelier", "--json", "jobs", "list", "--state", "c") == {"cancelled"}
    assert bash_completes(tmp_path, "atelier", "jobs", "w") == {"watch"}
    assert bash_completes(tmp_path, "atelier", "generate", "--seed", "") == set()


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_is_printed_names_everything_and_parses(shell: str, run: Run, tmp_path: Path) -> None:
    text = run("completion", shell).out
    for node in NODES:
        assert not node.words or node.words[-1] in text
        for option in node.options:
            for flag in option.flags:
                assert (flag if shell != "fish" else f" {flag.replace('--', '-l ')} ".replace(" -h ", " -s h ")) in text
    program = shutil.which(shell)
    if program is not None:  # Bash is everywhere; the others are checked where they are.
        (tmp_path / "script").write_text(text)
        subprocess.run([program, "-n", str(tmp_path / "script")], check=True)


def test_fish_completes_where_it_is(run: Run, tmp_path: Path) -> None:
    program = shutil.which("fish")
    if program is None:
        pytest.skip("fish is not installed")
    path = tmp_path / "atelier.fish"
    path.write_text(run("completion", "fish").out)

    def completes(line: str) -> set[str]:
        code = f"source {path}; complete -C '{line}'"
        done = subprocess.run([program, "--no-config", "-c", code], capture_output=True, text=True, check=True)
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert completes("atelier jobs ") == {"list", "show", "watch", "cancel"}
    assert completes("atelier jobs list --state c") == {"cancelled"}
    assert completes("atelier serve ") == {"router", "asset", "library", "gateway"}
    assert "--quantity" in completes("atelier generate x --qu")
