"""Completion scripts for bash, zsh and fish, made from the tree of commands, so that they cannot rot."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its spellings, whether a value follows, the values it takes, and its help."""

    flags: tuple[str, ...]
    takes_value: bool
    choices: tuple[str, ...]
    takes_path: bool
    help: str


@dataclass(frozen=True, slots=True)
class Node:
    """One command: its words, its help, what stands below it, and what may follow it."""

    words: tuple[str, ...]
    help: str = ""
    children: tuple[Node, ...] = ()
    options: tuple[Option, ...] = ()
    choices: tuple[str, ...] = field(default=())
    takes_path: bool = False


def tree(parser: argparse.ArgumentParser, words: tuple[str, ...] = (), help: str = "") -> Node:
    """Read the tree of commands out of a parser."""
    children: list[Node] = []
    options: list[Option] = []
    choices: list[str] = []
    takes_path = False
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            # An alias leads to the same parser, and takes its help.
            helps = {id(action.choices[choice.dest]): choice.help for choice in action._choices_actions}
            children += [
                tree(child, (*words, name), _help(helps.get(id(child)))) for name, child in action.choices.items()
            ]
        elif action.option_strings:
            options.append(_option(action))
        else:
            choices += [str(choice) for choice in action.choices or ()]
            takes_path = takes_path or _is_path(action)
    return Node(words, help, tuple(children), tuple(options), tuple(choices), takes_path)


def _option(action: argparse.Action) -> Option:
    return Option(
        tuple(action.option_strings),
        action.nargs != 0,
        tuple(str(choice) for choice in action.choices or ()),
        _is_path(action),
        _help(action.help),
    )


def _help(text: str | None) -> str:
    """Return a help text without the placeholders of argparse."""
    return (text or "").replace("%(default)s", "").replace("(default: )", "").strip()


def _is_path(action: argparse.Action) -> bool:
    name = action.metavar if isinstance(action.metavar, str) else ""
    return name.startswith(("FILE", "FOLDER"))


def walk(node: Node) -> Iterator[Node]:
    """Yield a command and all below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion script for `bash`, `zsh` or `fish`."""
    makers: dict[str, Callable[[Node], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
    return makers[shell](tree(parser))


def bash(root: Node) -> str:
    """Return a script for bash 3.2 or newer: `source <(atelier completion bash)`."""
    cases = "\n".join(_bash_case(node) for node in walk(root))
    groups = "|".join(f"'{' '.join(node.words)}'" for node in walk(root) if node.words)
    return f"""# bash completion for atelier; made by `atelier completion bash`
_atelier() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" path="" word next
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        next="${{path:+$path }}$word"
        case "$next" in {groups}) path="$next" ;; esac
    done
    COMPREPLY=()
    case "$path" in
{cases}
    esac
}}
complete -F _atelier atelier
"""


def _bash_case(node: Node) -> str:
    words = [child.words[-1] for child in node.children] + list(node.choices)
    flags = [flag for option in node.options for flag in option.flags]
    values = "".join(_bash_values(option) for option in node.options if option.takes_value)
    rest = f'compgen -W "{" ".join(words + flags)}" -- "$current"'
    files = ' $(compgen -f -- "$current")' if node.takes_path else ""
    return (
        f"        '{' '.join(node.words)}')\n"
        f'            case "$previous" in\n{values}'
        f"                *) COMPREPLY=( $({rest}){files} ) ;;\n"
        f"            esac ;;"
    )


def _bash_values(option: Option) -> str:
    pattern = "|".join(option.flags)
    if option.choices:
        return f'                {pattern}) COMPREPLY=( $(compgen -W "{" ".join(option.choices)}" -- "$current") ) ;;\n'
    if option.takes_path:
        return f'                {pattern}) COMPREPLY=( $(compgen -f -- "$current") ) ;;\n'
    return f"                {pattern}) ;;\n"


def zsh(root: Node) -> str:
    """Return a script for zsh: `atelier completion zsh > a-folder-of-fpath/_atelier`."""
    functions = "\n".join(_zsh_function(node) for node in walk(root))
    return f"""#compdef atelier
# zsh completion for atelier; made by `atelier completion zsh`
{functions}
if [ "$funcstack[1]" = "_atelier" ]; then
    _atelier "$@"
else
    compdef _atelier atelier
fi
"""


def _zsh_name(node: Node) -> str:
    return "_atelier" + "".join(f"__{word.replace('-', '_')}" for word in node.words)


def _zsh_text(text: str) -> str:
    """Return a text for a spec in single quotes."""
    for mark in ("\\", "[", "]", ":"):
        text = text.replace(mark, f"\\{mark}")
    return text.replace("'", "'\\''")


def _zsh_option(option: Option) -> str:
    action = f"({' '.join(option.choices)})" if option.choices else "_files" if option.takes_path else " "
    value = f":value:{_zsh_text(action) if not option.choices else action}" if option.takes_value else ""
    return "\n".join(f"        '*{flag}[{_zsh_text(option.help)}]{value}' \\" for flag in option.flags)


def _zsh_function(node: Node) -> str:
    options = "\n".join(_zsh_option(option) for option in node.options)
    name = _zsh_name(node)
    if not node.children:
        rest = f"'*: :({' '.join(node.choices)})'" if node.choices else "'*: :_files'" if node.takes_path else "'*: : '"
        return f"{name}() {{\n    _arguments \\\n{options}\n        {rest}\n}}"
    described = " ".join(f"'{child.words[-1]}:{_zsh_text(child.help)}'" for child in node.children)
    cases = "\n".join(f"            {child.words[-1]}) {_zsh_name(child)} ;;" for child in node.children)
    return f"""{name}() {{
    local line state
    local -a commands=({described})
    _arguments -C \\
{options}
        '1: :->command' '*:: :->rest'
    case "$state" in
        command) _describe command commands ;;
        rest) case "$line[1]" in
{cases}
        esac ;;
    esac
}}"""


def fish(root: Node) -> str:
    """Return a script for fish: `atelier completion fish > ~/.config/fish/completions/atelier.fish`."""
    lines = ["# fish completion for atelier; made by `atelier completion fish`", _FISH_HELPER, "complete -c atelier -f"]
    for node in walk(root):
        # Below a group stand only commands; behind a command stand arguments of any number.
        helper = "__atelier_at" if node.children else "__atelier_in"
        condition = f"-n '{' '.join((helper, *node.words))}'"
        lines += [
            f"complete -c atelier {condition} -a {child.words[-1]} -d '{_fish_text(child.help)}'"
            for child in node.children
        ]
        if node.choices:
            lines.append(f"complete -c atelier {condition} -a '{' '.join(node.choices)}'")
        if node.takes_path:
            lines.append(f"complete -c atelier {condition} -F")
        lines += [f"complete -c atelier {condition} {_fish_option(option)}" for option in node.options]
    return "\n".join(lines) + "\n"


_FISH_HELPER = """function __atelier_words
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or echo $word
    end
end
function __atelier_at
    test (count (__atelier_words)) -eq (count $argv); and __atelier_in $argv
end
function __atelier_in
    set -l words (__atelier_words)
    set -l wanted (count $argv)
    test $wanted -eq 0; and return 0
    test (count $words) -ge $wanted; and test "$words[1..$wanted]" = "$argv"
end"""


def _fish_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _fish_option(option: Option) -> str:
    names = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    value = ""
    if option.takes_value:
        value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -r -F" if option.takes_path else " -x"
    return f"{names}{value} -d '{_fish_text(option.help)}'"
