"""The options of `serve`."""

import argparse
from pathlib import Path

from .cache_options import add_cache_options
from .common import MODEL_HELP, REVISION_HELP, add_adapter_option, add_dtype_option
from .draft_options import add_draft_model
from .durations import seconds_of
from .image_options import add_size_limit
from .parser import Parser

PORT = 8080
EPILOG = """\
examples:
  mlx_lfm2vl serve --model 450m
  mlx_lfm2vl serve --model 450m --model plants=plants-model --keep-alive 10m
  mlx_lfm2vl serve --model 450m --host 0.0.0.0 --token-file token

exit codes: 0 ended by SIGTERM or after --exit-when-idle, 1 failed, 2 wrong use,
130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="mlx_lfm2vl serve",
        description="Keep models in memory and answer over HTTP, in OpenAI's protocol, and on a\n"
        "page for a browser. Only programs on this machine can ask by default.",
        epilog=EPILOG,
    )
    _add_models(parser)
    _add_network(parser)
    _add_limits(parser)
    add = parser.add_argument_group("process").add_argument
    add(
        "--keep-alive",
        type=seconds_of,
        default=None,
        metavar="TIME",
        help="unload the model after so long without a question: 30s, 10m, 2h, 0 for at once; "
        "default: forever",
    )
    add(
        "--exit-when-idle",
        action="store_true",
        help="end the process after --keep-alive, instead of unloading the model",
    )
    add(
        "--grace",
        type=seconds_of,
        default=30.0,
        metavar="TIME",
        help="time that running answers have to finish when the server is stopped; default: 30s",
    )
    add(
        "--log-requests",
        action="store_true",
        help="print a line for every request: method, path, status, time; never what was asked",
    )
    add_cache_options(parser.add_argument_group("disk cache (default: none)"))
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("models")
    add = group.add_argument
    add(
        "-m",
        "--model",
        action="append",
        dest="models",
        metavar="MODEL",
        help=f"a model that requests may name, or NAME=MODEL; can be repeated, and the first is "
        f"the default: {MODEL_HELP}",
    )
    add("--revision", help=REVISION_HELP)
    add_dtype_option(group)
    add_adapter_option(group)
    add_draft_model(group)


def _add_network(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("who may ask (default: programs on this machine)").add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; any other than this machine's own needs a token; default: "
        "127.0.0.1",
    )
    add(
        "--port",
        type=int,
        default=PORT,
        metavar="N",
        help=f"0 takes a free one; default: {PORT}",
    )
    add(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="file of the token that clients must bring, which only you can read (chmod 600); "
        "MLX_LFM2VL_TOKEN=TOKEN does the same",
    )
    add(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name of this machine that clients use, such as mac.local or "
        "host.docker.internal; can be repeated",
    )
    add(
        "--allow-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="web page of another site that may call, such as http://localhost:3000; can be "
        "repeated",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    add = group.add_argument
    add("--max-images", type=int, default=32, metavar="N", help="per question; default: 32")
    add_size_limit(group)
    add(
        "--max-tokens",
        type=int,
        metavar="N",
        help="longest answer that a request may ask for; default: what the model can hold",
    )
    add(
        "--max-waiting",
        type=int,
        default=64,
        metavar="N",
        help="questions that may wait for their turn; default: 64",
    )
    add(
        "--max-seconds",
        type=float,
        metavar="S",
        help="longest time of an answer, waiting included; default: none",
    )
    add("--allow-url", action="store_true", help="let requests name images by http or https URL")
