"""The options of a draft model, and the one that they mean."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .answer_output import say

if TYPE_CHECKING:  # heavy imports wait until the arguments are right
    from ..model.drafter import DraftModel
    from ..model.lfm2vl import Lfm2VL


def add_draft_model(group: argparse._ActionsContainer) -> None:
    """Add the option that chooses a draft model."""
    group.add_argument(
        "--draft-model",
        metavar="MODEL",
        help="folder or Hub repo of a DSpark drafter for the model, or demo: the same answer, in "
        "fewer steps; default: none",
    )


def add_draft_options(group: argparse._ActionsContainer) -> None:
    """Add the options of a draft model."""
    add_draft_model(group)
    group.add_argument(
        "--draft-tokens",
        type=int,
        metavar="N",
        help="most tokens that the draft model proposes at a time, 0 for none; default: chosen by "
        "what is measured",
    )


def check_draft_options(options: argparse.Namespace) -> None:
    """Refuse a number of proposals of no drafter.

    Raises:
        InputError: there is a number and no drafter.
    """
    if options.draft_tokens is not None and options.draft_model is None:
        raise InputError("--draft-tokens needs --draft-model: add it, or remove --draft-tokens")


def note_undrafted_batch(options: argparse.Namespace) -> None:
    """Say that a draft model is not used for a batch, whose answers are the same without it."""
    if drafts(options) and options.draft_tokens is None:
        say("note: a batch is drafted only with --draft-tokens: --draft-model changes nothing")


def drafts(options: argparse.Namespace) -> bool:
    """Whether a draft model is chosen and may propose tokens."""
    return options.draft_model is not None and options.draft_tokens != 0


def check_draft_model(options: argparse.Namespace) -> None:
    """Find out from their small files whether the drafter is one of the model, if any is chosen.

    Raises:
        Lfm2VLError: see `load_drafter`.
    """
    if not drafts(options):
        return
    from ..checkpoint.config import read_model_config
    from ..checkpoint.find import find_checkpoint
    from ..drafter_loading import find_pair

    folder = find_checkpoint(
        options.model, options.revision, with_weights=False, update=options.update
    )
    name = str(folder.resolve()) if Path(options.model).is_dir() else options.model
    find_pair(options.draft_model, read_model_config(folder, name), options.model)


def load_draft_model(options: argparse.Namespace, model: Lfm2VL) -> DraftModel | None:
    """Load the drafter that was chosen for a model, if any."""
    if not drafts(options):
        return None
    from ..drafter_loading import load_drafter

    return load_drafter(options.draft_model, model)
