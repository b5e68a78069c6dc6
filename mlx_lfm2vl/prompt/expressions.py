"""Which regular expressions of a `tokenizer.json` are run: those that take linear time.

The tokenizer library's engine backtracks, cannot be interrupted, and gives up with a trace on
stderr that Python cannot stop. An expression such as `a*[bc]d` takes quadratic time, `(a+)+b`
exponential time, and one of 10 MB takes minutes to compile. So the file is searched for them before
the library reads it.
"""

import json
import re
from collections.abc import Iterator

from ..errors import CheckpointError

ENGLISH = "'s|'t|'re|'ve|'m|'ll|'d"
WORDS = rf"(?i:{ENGLISH})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Expressions of published tokenizers, in which what follows a repeat never matches what repeats, or
# another alternative takes what one gave up.
KNOWN = {
    rf"{WORDS}|\p{{N}}{{1,3}}|{REST}",  # the family's, and Llama 3's
    rf"{WORDS}|\p{{N}}|{REST}",  # Qwen 2's
    rf"{ENGLISH}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",  # GPT-2's
}
# Others are run if nothing follows a repeat, so that none is tried again with fewer rounds, and if
# no alternative matches an empty text.
ESCAPE = r"\\[pP]\{\^?\w{1,30}\}|\\[dDsSwWrnt]|\\[^\w\s]"
ATOM = rf"(?:{ESCAPE}|\[\^?(?:{ESCAPE}|[^\[\]\\&])++\]|[^\\\[\](){{}}|*+?^$])"
ALTERNATIVE = rf"(?:{ATOM}\?){{0,2}}{ATOM}{{1,20}}(?:\+|\{{[1-9]\d?(?:,\d{{0,2}})?\}})?"
LINEAR = re.compile(rf"{ALTERNATIVE}(?:\|{ALTERNATIVE}){{0,19}}")
MAX_LENGTH = 200  # characters of an expression that is not known
MAX_LITERAL = 2**12  # bytes of a text that is searched for; the library makes expressions of them

STRING = rb'\s*+:\s*+"((?:[^"\\]|\\.)*+)"'
EXPRESSION = re.compile(rb'"Regex"' + STRING, re.DOTALL)
LITERAL = re.compile(rb'"String"' + STRING, re.DOTALL)
PRECOMPILED = re.compile(rb'"precompiled_charsmap"\s*+:')
# No program writes letters as escapes, and the names above could not be found in them.
ESCAPED_LETTER = re.compile(rb"\\u00[2-7]")


def check_expressions(data: bytes) -> None:
    """Check the expressions of a `tokenizer.json`, before the library compiles them.

    Args:
        data: the file's content, which need not be JSON.

    Raises:
        CheckpointError: an expression may take more than linear time, or make the library give up.
    """
    escapes = _matches(ESCAPED_LETTER, b"\\u00", data)
    if any(_is_escape(data, found.start()) for found in escapes):
        raise CheckpointError("tokenizer.json spells letters as escapes")
    if any(_matches(PRECOMPILED, b'"precompiled_charsmap"', data)):
        raise CheckpointError("tokenizer.json: the step Precompiled is not supported")
    for found in _matches(EXPRESSION, b'"Regex"', data):
        if not is_linear(_decoded(found[1])):
            shown = found[1][:60].decode(errors="replace")
            raise CheckpointError(
                f"tokenizer.json: the expression {shown!r} is not supported, it may take too long"
            )
    if not all(0 < len(found[1]) <= MAX_LITERAL for found in _matches(LITERAL, b'"String"', data)):
        raise CheckpointError("tokenizer.json searches for an empty text, or for a long one")


def is_linear(expression: str) -> bool:
    """Tell whether matching an expression takes linear time."""
    if expression in KNOWN:
        return True
    return len(expression) <= MAX_LENGTH and LINEAR.fullmatch(expression) is not None


def _decoded(text: bytes) -> str:
    """Return the text of a JSON string; empty, which is no expression, if it is none."""
    if len(text) > 8 * MAX_LENGTH:
        return ""
    try:
        return json.loads(b'"' + text + b'"')
    except ValueError:
        return ""


def _matches(
    pattern: re.Pattern[bytes], beginning: bytes, data: bytes
) -> Iterator[re.Match[bytes]]:
    """Find a pattern by its beginning, many times faster than `finditer` in a file of megabytes."""
    at = data.find(beginning)
    while at >= 0:
        found = pattern.match(data, at)
        if found:
            yield found
        at = data.find(beginning, at + 1)


def _is_escape(data: bytes, at: int) -> bool:
    """Tell whether a backslash begins an escape, rather than being escaped itself."""
    before = data[max(0, at - MAX_LITERAL) : at]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0
