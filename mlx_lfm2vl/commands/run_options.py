"""The options of `run`: those of its skill, where pictures come from, and what becomes of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .generate_options import add_image_option, add_memory_options
from .page_options import add_page_options
from .parser import Parser
from .resident_options import add_resident_options
from .skill_options import (
    DESCRIPTIONS,
    TEXTS,
    add_answer_options,
    add_own_options,
    add_prompt_options,
)
from .source_options import add_source_options, reads_stdin
from .write_options import add_write_options

# `compare` needs several pictures in one question, and a run asks about each by itself.
SKILLS = tuple(name for name in DESCRIPTIONS if name != "compare")
EPILOG = """\
examples:
  mlx_lfm2vl run caption -m 450m photos --out captions.jsonl
  mlx_lfm2vl run caption -m 450m photos --out captions.csv --write txt
  mlx_lfm2vl run extract -m 450m photos --fields "total: paid" --out paid.csv

The same command continues a run that was interrupted. With --rename
files are named by what they show; run --undo renamed.jsonl takes that back.

exit codes: 0 all answered, 1 failed or a picture was not answered,
2 wrong use or bad input, 130 interrupted
"""


def build_parser(name: str | None = None) -> argparse.ArgumentParser:
    """Return the parser for one skill; None has no options of a skill."""
    word = TEXTS[name][0] if name and name in TEXTS else ""
    sources = f"SOURCE ... [{word}]" if word else "SOURCE ..."
    parser = Parser(
        prog=f"mlx_lfm2vl run {name or 'SKILL'}",
        usage=f"mlx_lfm2vl run {name or 'SKILL'} [options] {sources} --out FILE",
        description=f"{DESCRIPTIONS[name] if name else 'Ask the same about many pictures.'}\n"
        "Each picture gets a record in a file, which a later run continues.\n"
        + ("" if name else f"SKILL is {', '.join(SKILLS)}.\nrun SKILL --help shows its options."),
        epilog=EPILOG,
    )
    question = parser.add_argument_group("question")
    question.add_argument(
        "words",
        nargs="*",
        metavar="SOURCE",
        help="images, folders, patterns in quotes" + (word and f"; and {word}"),
    )
    add_image_option(question, "more images")
    if name:
        add_own_options(question, name)
    add_prompt_options(question)
    _add_run_options(parser.add_argument_group("run"))
    add_source_options(parser)
    add_page_options(parser)
    add_write_options(parser)
    add_answer_options(parser)
    add_memory_options(parser)
    add_resident_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("-V", "--verbose", action="store_true", help="print settings")
    parser.set_defaults(together=False, show_prompt=False, draft_model=None, draft_tokens=None)
    return parser


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "-o",
        "--out",
        type=Path,
        metavar="FILE",
        help="file of the results, whose ending says its form: .jsonl, .csv or .md",
    )
    add("--restart", action="store_true", help="begin again: forget the results in the file")
    add("--in-order", action="store_true", help="put the results in the order of the pictures")
    add("--limit", type=int, metavar="N", help="only the first N pictures")
    add("--watch", action="store_true", help="then wait for new pictures, until Ctrl-C")
    add("--dry-run", action="store_true", help="print how many tokens it would take, and stop")
    add("--batch-size", type=int, default=8, metavar="N", help="at the same time; default: 8")


def check_run_options(options: argparse.Namespace) -> None:
    """Refuse what cannot be run, before anything is loaded.

    Raises:
        InputError: an option is missing, wrong or contradicts another.
    """
    if options.out is None and not options.dry_run:
        raise InputError("--out FILE is missing, as in --out results.jsonl")
    for name in ("limit", "batch_size"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise InputError(f"--{name.replace('_', '-')} is {number}, expected at least 1")
    if options.watch and (options.dry_run or options.limit or options.in_order):
        raise InputError("--watch has no end: remove --dry-run, --limit and --in-order, or --watch")
    elsewhere = options.screenshot or options.clipboard or options.files_from
    if options.watch and (elsewhere or reads_stdin(options)):
        raise InputError("--watch looks at files and folders only")


def skill_of(arguments: Sequence[str]) -> str | None:
    """Return the skill that the arguments begin with; None if they ask for help.

    Raises:
        InputError: they begin with something else.
    """
    first = arguments[0] if arguments else ""
    if first in SKILLS:
        return first
    if any(word in ("-h", "--help") for word in arguments):
        return None
    if first == "compare":
        raise InputError(
            "compare asks about several images at once, and a run about each by itself"
        )
    from .parser import nearest

    near = nearest(first, SKILLS)
    hint = f"; did you mean {near}?" if near else f" among {', '.join(SKILLS)}"
    problem = f"there is no skill {first!r:.60}{hint}" if first else f"which skill{hint}?"
    mark = "" if problem.endswith("?") else ";"
    raise InputError(f"{problem}{mark} as in mlx_lfm2vl run caption photos --out captions.jsonl")
