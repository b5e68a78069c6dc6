"""The options of the skills' commands, and what they say of the question."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options import SAMPLING_KEYS
from ..skills.kinds import KINDS, Kind
from .common import add_adapter_option, add_model_options
from .draft_options import add_draft_options
from .generate_options import (
    add_image_option,
    add_memory_options,
    add_reading_options,
    add_sampling_options,
)
from .page_options import add_page_options
from .parser import Parser
from .question import names_image
from .resident_options import add_resident_options
from .source_options import add_source_options, has_sources

MAX_SCHEMA_BYTES = 2**20
LENGTHS = ("short", "normal", "detailed", "alt")
FORMS = ("text", "markdown")
SURFACES = ("app", "web", "photo")
TEXTS = {  # the word beside the images that a skill takes, and whether it must be there
    "detect": ("WHAT", False),
    "point": ("WHAT", True),
    "ask": ("QUESTION", True),
}
DESCRIPTIONS = {
    "caption": "Describe each image.",
    "keywords": "List keywords for each image.",
    "ocr": "Read the text in each image.",
    "layout": "Read a document region by region; the images are its pages. Needs LFM2.5-VL-3B.",
    "detect": "Find things in each image: label, and left, top, right, bottom in pixels.",
    "point": "Find one place in each image: x and y in pixels.",
    "classify": "Choose a label for each image. The probabilities are not calibrated.",
    "extract": "Read fields from each image. The -Extract models were made for that.",
    "compare": "Say what differs between two or more images.",
    "ask": "Ask a question about each image.",
}
EXAMPLES = {
    "caption": ["photo.jpg", "--length alt photos", "photo.jpg --length short --json"],
    "keywords": ["photo.jpg", "photo.jpg --count 10", "photos --json"],
    "ocr": ["photo.jpg", "photo.jpg --form markdown", "photos --json"],
    "layout": ["photo.jpg", "photo.jpg --json", "photo.jpg --draw regions.png"],
    "detect": [
        'photo.jpg "the two cats"',
        "photo.jpg --labels cat dog --json",
        'photo.jpg "the two cats" --draw boxes.png',
    ],
    "point": [
        'photo.jpg "save the file"',
        'photo.jpg "the red car" --surface photo',
        'photo.jpg "save the file" --draw place.png',
    ],
    "classify": [
        "photo.jpg --labels receipt letter photo",
        "photo.jpg --labels yes no --json",
        'photos --labels "a cat" "a dog" "no animal"',
    ],
    "extract": [
        'photo.jpg --fields "total: amount paid"',
        'photo.jpg --fields "by: select from cash or card"',
        "photos --fields total date --json",
    ],
    "compare": [
        "photo.jpg photos/1.jpg",
        "photo.jpg photos/1.jpg --json",
        "photo.jpg photos/1.jpg --show-prompt",
    ],
    "ask": [
        'photo.jpg "How many people are there?"',
        'photos "Is it {place}?" --json',
        'photo.jpg photos/1.jpg "Which is sharper?" --together',
    ],
}
EXIT_CODES = """\
exit codes: 0 answered, 1 failed or an image was not answered,
2 wrong use or bad input, 130 interrupted
"""


def build_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of a skill's command."""
    word = f" [{TEXTS[name][0]}]" if name in TEXTS else ""
    model = "3b" if name == "layout" else "450m"
    lines = "".join(f"  mlx_lfm2vl {name} -m {model} {line}\n" for line in EXAMPLES[name])
    parser = Parser(
        prog=f"mlx_lfm2vl {name}",
        usage=f"mlx_lfm2vl {name} [options] IMAGE ...{word}",
        description=f"{DESCRIPTIONS[name]}\nThe answer goes to stdout, everything else to stderr.",
        epilog=f"examples:\n{lines}\n{EXIT_CODES}",
    )
    question = parser.add_argument_group("question")
    what = {"detect": " and what to find", "point": " and what to find", "ask": " and the question"}
    question.add_argument(
        "words",
        nargs="*",
        metavar=f"IMAGE{f', {TEXTS[name][0]}' if name in TEXTS else ''}",
        help=f"images{what.get(name, '')}, in any order; a folder stands for the images in it",
    )
    add_image_option(question, "more images; - reads stdin; demo is a built-in picture")
    add_own_options(question, name)
    _add_uses(question, name)
    add_source_options(parser)
    add_page_options(parser)
    add_prompt_options(question)
    question.add_argument(
        "--show-prompt", action="store_true", help="print the prompt as TOML, and stop"
    )
    add_draft_options(add_answer_options(parser))
    add_memory_options(parser)
    add_resident_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print a JSON object for each answer")
    output.add_argument("-V", "--verbose", action="store_true", help="print settings and speed")
    return parser


def add_prompt_options(group: argparse._ArgumentGroup) -> None:
    """Add the options that choose in which words a skill asks."""
    add = group.add_argument
    add("--prompt-file", type=Path, metavar="FILE", help="a prompt of your own, as text or TOML")
    add("--kind", choices=KINDS, help="kind of checkpoint; default: what its configuration tells")


def add_answer_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the model, of images and of answers; return the group of the last."""
    add_adapter_option(add_model_options(parser))
    add_reading_options(parser)
    answer = parser.add_argument_group("answer (default: the settings of the prompt)")
    answer.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    add_sampling_options(answer)
    return answer


def add_own_options(group: argparse._ArgumentGroup, name: str) -> None:
    """Add the options of the question that only this skill has."""
    add = group.add_argument
    if name == "caption":
        text = "how much to say; alt is alt text of at most 125 characters; default: normal"
        add("--length", choices=LENGTHS, default="normal", help=text)
    if name == "keywords":
        add("--count", type=int, default=15, metavar="N", help="most keywords; default: 15")
    if name == "ocr":
        add("--form", choices=FORMS, default="text", help="default: text")
    if name == "detect":
        add("--labels", nargs="+", action="extend", metavar="LABEL", help="things to find")
    if name == "point":
        text = "what the image shows; for app and web the place is one to click; default: app"
        add("--surface", choices=SURFACES, default="app", help=text)
    if name == "classify":
        text = "the labels to choose among"
        add("--labels", nargs="+", action="extend", metavar="LABEL", help=text)
    if name == "extract":
        text = 'what to read; a description may name choices: "kind: select from a, b, or c"'
        add("--fields", nargs="+", action="extend", metavar="NAME: DESCRIPTION", help=text)
        add("--schema", type=Path, metavar="FILE", help="JSON Schema of the object to read")


def _add_uses(group: argparse._ArgumentGroup, name: str) -> None:
    """Add what else this skill does with images that are named one by one."""
    add = group.add_argument
    if name in ("detect", "extract", "ask"):
        add("--together", action="store_true", help="put all images into one question")
    if name in ("detect", "point", "layout"):
        add("--draw", type=Path, metavar="FILE", help="draw the boxes into a copy of the image")


def is_together(name: str, options: argparse.Namespace) -> bool:
    """Whether all images are in one question."""
    return name in ("layout", "compare") or getattr(options, "together", False)


def split_words(name: str, options: argparse.Namespace, *, need_image: bool = True) -> None:
    """Tell images from the text beside them: fills `options.image` and `options.text`.

    Args:
        name: of the skill.
        options: of the command.
        need_image: refuse that no image is named.

    Raises:
        InputError: there is no image, or a text is missing or one too many.
    """
    words = [*_taken(options), *options.words]
    images = [word for word in words if names_image(word)]
    texts = [word for word in words if word not in images]
    options.image = [*images, *options.image]
    metavar, needed = TEXTS.get(name, ("", False))
    if texts and not metavar:
        raise InputError(f"there is no image {texts[0]!r:.80}, and {name} takes nothing else")
    if len(texts) > 1:
        raise InputError(
            f"two texts: {texts[0]!r:.80} and {texts[1]!r:.80}; put one of several words in quotes"
        )
    if needed and not texts and not options.prompt_file:
        raise InputError(f"{metavar} is missing: put it in quotes in the last place")
    options.text = texts[0] if texts else None
    if need_image and not has_sources(options) and not options.show_prompt:
        raise InputError(f"which image? as in mlx_lfm2vl {name} photo.jpg")


def _taken(options: argparse.Namespace) -> list[str]:
    """Take back images that an option for several words has taken: `--labels cat dog photo.jpg`."""
    found: list[str] = []
    for name in ("labels", "fields"):
        words = getattr(options, name, None) or []
        while len(words) > 1 and names_image(words[-1]) and ": " not in words[-1]:
            found.insert(0, words.pop())
    return found


def task_options(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the skill, as `make_task` takes them.

    Raises:
        InputError: one is missing or wrong.
    """
    own = {
        key: getattr(options, key)
        for key in ("length", "count", "form", "surface")
        if key in options
    }
    if name == "detect":
        if options.text is not None and options.labels:
            raise InputError(f"{options.text!r:.80} and --labels: use one of them")
        own["target"] = options.labels if options.text is None else options.text
    if name == "point":
        own["target"] = "target" if options.text is None else options.text
    if name == "ask":
        own["question"] = "-" if options.text is None else options.text
    if name == "classify":
        if not options.labels:
            raise InputError("--labels is missing, as in --labels cat dog")
        own["labels"] = options.labels
    if name == "extract":
        if bool(options.fields) == bool(options.schema):
            raise InputError('extract needs --fields "name: description" or --schema FILE')
        own |= (
            {"schema": _read_schema(options.schema)}
            if options.schema
            else {"fields": options.fields}
        )
    if options.prompt_file:
        from ..skills.prompts import read_prompt

        own["prompt"] = read_prompt(options.prompt_file)
    return own


def kind_of(options: argparse.Namespace) -> Kind:
    """Return the kind of the checkpoint, which its small files tell."""
    from ..checkpoint.config import read_model_config
    from ..checkpoint.find import find_checkpoint
    from ..skills.kinds import checkpoint_kind

    model = options.model
    folder = find_checkpoint(model, options.revision, with_weights=False, update=options.update)
    name = str(folder.resolve()) if Path(model).is_dir() else model  # "." has a name too
    return checkpoint_kind(read_model_config(folder, name))


def answer_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the answer that were given."""
    names = ("max_tokens", "seed", "draft_tokens", *SAMPLING_KEYS)
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _read_schema(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCHEMA_BYTES + 1)
        if len(data) > MAX_SCHEMA_BYTES:
            raise InputError(f"{path} has over {MAX_SCHEMA_BYTES} bytes, too many for a schema")
        return json.loads(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
