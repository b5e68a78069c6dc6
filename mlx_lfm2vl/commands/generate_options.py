"""The options of `generate`."""

import argparse
from pathlib import Path

from ..options import KV_BITS, MAX_TOKENS
from .cache_options import add_cache_options
from .common import add_adapter_option, add_model_options, add_special_tokens
from .constraint_options import add_constraint_options
from .draft_options import add_draft_options
from .image_options import add_image_options, add_size_limit
from .page_options import add_page_options
from .parser import Parser
from .resident_options import add_resident_options
from .source_options import add_source_options

EPILOG = """\
examples:
  mlx_lfm2vl generate -m 450m photo.jpg "What is in this photo?"
  mlx_lfm2vl generate -m 450m -i photo.jpg --plan
  mlx_lfm2vl generate -m 450m --each --recursive photos "Describe it." --json

exit codes: 0 answered, 1 failed, 2 wrong use or bad input, 130 interrupted
(--each, --ask: 1 if an image or a question was not answered)
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl generate",
        usage="mlx_lfm2vl generate [options] [IMAGE ...] [PROMPT]",
        description="Answer a prompt about images with an LFM2-VL model.\n"
        "The answer goes to stdout, everything else to stderr.",
        epilog=EPILOG,
    )
    question = parser.add_argument_group("question")
    add = question.add_argument
    add(
        "words",
        nargs="*",
        metavar="IMAGE, PROMPT",
        help="images, and the prompt in quotes, in any order; default: a prompt from a pipe",
    )
    add("-p", "--prompt", help="your question or instruction; - reads it from stdin")
    add_image_option(
        question,
        "one or more images or PDFs, all in one prompt; - reads stdin; demo is a built-in "
        "picture, unless there is a file of that name",
    )
    add(
        "--each",
        action="store_true",
        help="ask about each image by itself, several at a time; a folder stands for its images",
    )
    add(
        "--ask",
        action="append",
        default=[],
        metavar="TEXT",
        help="a question about all images, which are read once; can be repeated",
    )
    add("--ask-file", metavar="FILE", help="more questions, one a line; - reads them from stdin")
    add("--system", help="system message; default: none")
    add("--tools", type=Path, metavar="FILE", help="JSON list of functions that the model may call")
    add_special_tokens(question)
    add_constraint_options(parser)
    add_source_options(parser)
    add_page_options(parser)
    add_engine_options(parser)
    add_cache_options(parser.add_argument_group("disk cache (default: none)"))
    add_resident_options(parser)
    output = parser.add_argument_group("output")
    add = output.add_argument
    add(
        "--json",
        action="store_true",
        help="print one JSON object instead of the text; with --ask a list of them",
    )
    add("--token-ids", action="store_true", help="also put the answer's token ids into --json")
    add("--plan", action="store_true", help="print how many tokens the images take, and stop")
    add("-V", "--verbose", action="store_true", help="print settings and speed on stderr")
    return parser


def add_image_option(group: argparse._ArgumentGroup, text: str) -> None:
    """Add the option that names images, with its help."""
    group.add_argument(
        "-i", "--image", nargs="+", action="extend", default=[], metavar="FILE", help=text
    )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model, of images, of answers and of memory."""
    add_adapter_option(add_model_options(parser))
    add_reading_options(parser)
    answer = parser.add_argument_group("answer (default of sampling: the checkpoint's settings)")
    add = answer.add_argument
    add(
        "--answer-start",
        default="",
        metavar="TEXT",
        help="text that the answer begins with and continues, such as '{' for JSON; \\n is a line "
        "end",
    )
    add(
        "--max-tokens",
        type=int,
        default=MAX_TOKENS,
        metavar="N",
        help="longest answer; default: 512, or what the context leaves",
    )
    add_sampling_options(answer)
    add(
        "--lookup",
        type=int,
        default=0,
        metavar="N",
        help="copy up to N tokens from where the text repeats and verify them in one step; "
        "default: 0 (off)",
    )
    add_draft_options(answer)
    add(
        "--kv-bits",
        type=int,
        choices=KV_BITS,
        default=0,
        help="keep keys and values in 8 or 4 bits, for long contexts; default: 0 (off)",
    )
    add(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the answer before this text, in which \\n is a line end; can be repeated",
    )
    add_memory_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of images: where they may come from, how they are cut, how large they are."""
    image = parser.add_argument_group("images (default: the checkpoint's settings)")
    add = image.add_argument
    add("--allow-url", action="store_true", help="let --image fetch http and https URLs")
    add_image_options(image)
    add_size_limit(image)


def add_sampling_options(group: argparse._ArgumentGroup) -> None:
    """Add the fields of `Sampling`, and the seed."""
    add = group.add_argument
    add(
        "--temperature",
        "--temp",
        type=float,
        metavar="T",
        help="randomness of the answer; 0 always takes the most likely token",
    )
    add(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the most likely tokens whose probabilities add up to P; 1 is off",
    )
    add("--top-k", type=int, metavar="K", help="draw from the K most likely tokens; 0 is off")
    add(
        "--min-p",
        type=float,
        metavar="P",
        help="exclude tokens less likely than P times the most likely one; 0 is off",
    )
    add(
        "--repetition-penalty",
        type=float,
        metavar="R",
        help="make tokens less likely that occurred before; 1 is off",
    )
    add("--seed", type=int, metavar="N", help="seed that makes a random answer repeatable")


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """Add the limits on the GPU's memory."""
    device = parser.add_argument_group("GPU memory (the defaults depend on the Mac's memory)")
    add = device.add_argument
    add("--cache-limit", type=float, metavar="GB", help="most freed memory to keep for reuse")
    add("--wired-limit", type=float, metavar="GB", help="most memory to protect from paging out")
