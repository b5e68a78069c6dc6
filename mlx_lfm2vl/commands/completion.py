"""The `completion` command: a script that lets a shell complete commands, options and choices.

Exit codes: 0 printed, 2 wrong use.
"""

import argparse
from collections.abc import Mapping, Sequence

from .common import run_command
from .parser import Parser
from .table import COMMANDS, parser_of

EPILOG = """\
examples:
  mlx_lfm2vl completion bash
  mlx_lfm2vl completion zsh
  mlx_lfm2vl completion fish

to use it, put one of these lines into ~/.bashrc, ~/.zshrc (after compinit) or
~/.config/fish/config.fish:
  eval "$(mlx_lfm2vl completion bash)"
  eval "$(mlx_lfm2vl completion zsh)"
  source (mlx_lfm2vl completion fish | psub)
"""
BASH = """\
_mlx_lfm2vl() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=
    case "${{COMP_WORDS[1]}} $before" in
{choices}
    esac
    if [[ -z $words ]]; then
        if [[ $COMP_CWORD == 1 ]]; then
            words={commands!r}
        elif [[ $word == -* ]]; then
            case "${{COMP_WORDS[1]}}" in
{options}
            esac
        fi
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _mlx_lfm2vl mlx_lfm2vl
"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl completion",
        usage="mlx_lfm2vl completion {bash,zsh,fish}",
        description="Print a script that completes commands, options and choices in a shell.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("shell", choices=("bash", "zsh", "fish"), help="the shell to print the script for")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(build_parser(), _completion, arguments)


def _completion(options: argparse.Namespace) -> int:
    parsers = {name: parser_of(name) for name in COMMANDS}
    if options.shell == "fish":
        print(fish_script(parsers, COMMANDS), end="")
    else:
        print((ZSH if options.shell == "zsh" else "") + bash_script(parsers), end="")
    return 0


def _named(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.option_strings]


def bash_script(parsers: Mapping[str, argparse.ArgumentParser]) -> str:
    """Return the script for bash, which zsh understands too."""
    choices, options = [], []
    for name, parser in parsers.items():
        known = " ".join(o for action in _named(parser) for o in action.option_strings)
        options.append(f"                {name}) words={known!r} ;;")
        for action in parser._actions:
            if action.choices:
                before = action.option_strings or [name]
                pattern = " | ".join(f'"{name} {word}"' for word in before)
                words = " ".join(map(str, action.choices))
                choices.append(f"        {pattern}) words={words!r} ;;")
    return BASH.format(
        commands=" ".join(parsers), options="\n".join(options), choices="\n".join(choices)
    )


def fish_script(parsers: Mapping[str, argparse.ArgumentParser], commands: Mapping[str, str]) -> str:
    """Return the script for fish, which shows the help beside each option."""
    lines = []
    for name, parser in parsers.items():
        start = "complete -c mlx_lfm2vl -n"
        lines.append(f"{start} __fish_use_subcommand -a {name} -d {_quoted(commands[name])}")
        seen = f"'__fish_seen_subcommand_from {name}'"
        for action in parser._actions:
            words = f" -xa {_quoted(' '.join(map(str, action.choices)))}" if action.choices else ""
            flags = "".join(
                f" -l {option[2:]}" if option.startswith("--") else f" -s {option[1:]}"
                for option in action.option_strings
            )
            if flags or words:
                text = str(action.help).replace("%%", "%")
                lines.append(f"{start} {seen}{flags}{words} -d {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text in single quotes, as fish reads it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
