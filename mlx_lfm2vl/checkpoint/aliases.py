"""Short names of the published checkpoints, and the nearest name to a misspelt one."""

import re
from dataclasses import dataclass

DEMO = "demo"  # names the built-in model, and with --image its picture


@dataclass(frozen=True)
class Published:
    """A checkpoint that Liquid AI publishes on the Hub.

    Attributes:
        repo: its repo id.
        gigabytes: size of its weights at 16 bits.
        alias: its short name, or "" if a newer checkpoint of this size has it.
    """

    repo: str
    gigabytes: float
    alias: str = ""


PUBLISHED = (
    Published("LiquidAI/LFM2.5-VL-450M", 0.9, "450m"),
    Published("LiquidAI/LFM2.5-VL-1.6B", 3.2, "1.6b"),
    Published("LiquidAI/LFM2.5-VL-3B", 6.2, "3b"),
    Published("LiquidAI/LFM2-VL-450M", 0.9),
    Published("LiquidAI/LFM2-VL-1.6B", 3.2),
    Published("LiquidAI/LFM2-VL-3B", 6.0),
)
ALIASES = {model.alias: model.repo for model in PUBLISHED if model.alias}


def full_name(model: str) -> str:
    """Return the repo id of a short name, in any case: `450m`; any other name stays as it is."""
    return ALIASES.get(model.lower(), model)


def similar_name(model: str) -> str | None:
    """Return the known name that somebody may have meant: a repo id, an alias or `demo`.

    A page of the Hub stands for its repo. Owner and case do not matter.
    """
    import difflib  # only a mistake needs it

    page = re.match(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+)", model)
    if page:
        return page[1]
    names = {name.lower(): name for name in (DEMO, *ALIASES)}
    for published in PUBLISHED:
        names[published.repo.lower()] = published.repo
        names[published.repo.partition("/")[2].lower()] = published.repo
    found = difflib.get_close_matches(model.lower(), list(names), 1, 0.75)
    return names[found[0]] if found else None
