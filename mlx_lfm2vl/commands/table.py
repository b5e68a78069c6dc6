"""The commands of the program and what each is for."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as in the package's `__init__`
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

SKILLS = {
    "caption": "describe images: short, in detail, as alt text",
    "keywords": "list what to find images by",
    "ocr": "read the text in images, as it is or as Markdown",
    "layout": "read documents region by region (3B)",
    "detect": "find things and their boxes",
    "point": "find where to click in a screenshot",
    "classify": "choose among labels, with probabilities",
    "extract": "read fields from images as JSON",
    "compare": "say what differs between images",
    "ask": "ask each image a question",
}
COMMANDS = {
    "generate": "answer a prompt about images",
    "chat": "talk about images, line by line",
    **SKILLS,
    "run": "ask one of these about a whole folder, into a file",
    "serve": "answer over HTTP, in OpenAI's protocol and on a page",
    "mcp": "let coding agents look at images, as tools of MCP",
    "convert": "quantize a checkpoint and report what was lost",
    "train": "fine-tune a checkpoint on your own images and answers",
    "fuse": "merge an adapter into its checkpoint",
    "benchmark": "measure where the time goes on this machine",
    "models": "list the checkpoints on this machine, or remove one",
    "cache": "list or delete what --cache has kept on disk",
    "resident": "list or end the processes that --resident has started",
    "doctor": "check this machine, and its GPU against its CPU",
    "mac": "install Quick Actions for the Finder, or remove them",
    "completion": "print a script that completes commands in your shell",
}


def run_named(name: str, arguments: Sequence[str]) -> int:
    """Run a command; returns its exit code. Its module is imported here."""
    if name in SKILLS:
        return import_module(".skill", __package__).main(name, arguments)
    return import_module(f".{name}", __package__).main(arguments)


def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a command."""
    if name in SKILLS:
        return import_module(".skill_options", __package__).build_parser(name)
    return import_module(f".{name}", __package__).build_parser()
