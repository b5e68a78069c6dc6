"""The options that make an answer follow a schema, an expression, a choice or a grammar."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .question import read_file

if TYPE_CHECKING:
    from ..constraints.constraint import Constraint


def add_constraint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, of which one can be used at a time."""
    group = parser.add_argument_group("form of the answer (needs the extra [json])")
    add = group.add_mutually_exclusive_group().add_argument
    add(
        "--json-schema",
        metavar="FILE",
        help="the answer is JSON that is valid under this schema; - reads it from stdin",
    )
    add("--regex", metavar="PATTERN", help="the whole answer matches this regular expression")
    add(
        "--choice",
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="the answer is one of these texts",
    )
    add("--grammar", metavar="FILE", help="the answer follows this grammar in Lark form")


def chosen_constraint(options: argparse.Namespace) -> Constraint | None:
    """The constraint that was chosen, checked, or None.

    Raises:
        InputError: a file cannot be read, or the constraint cannot be used.
    """
    if options.json_schema is not None:
        from ..constraints.constraint import json_schema

        return json_schema(read_file(options.json_schema))
    if options.regex is not None:
        from ..constraints.constraint import regex

        return regex(options.regex)
    if options.choice:
        from ..constraints.constraint import choice

        return choice(options.choice)
    if options.grammar is not None:
        from ..constraints.constraint import grammar

        return grammar(read_file(options.grammar))
    return None
