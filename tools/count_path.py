"""Count the lines of code from a call of `generate` to the first token.

    python tools/count_path.py

Runs the demo model on its picture with a profiler. Lists, by file, the lines of every function of
the package that ran: all of them, and those of code, without docstrings, comments and blank lines.
Loading is not part of the path. Exits 1 if the path has more than LIMIT lines of code.
"""

import ast
import inspect
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import mlx_lfm2vl
from mlx_lfm2vl import generate, load

LIMIT = 2300
PACKAGE = Path(mlx_lfm2vl.__file__).parent
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def functions_run() -> set[CodeType]:
    """Code of every function of the package that runs between the call and the first token."""
    model, processor = load("demo")
    ran: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(PACKAGE):
            ran.add(frame.f_code)

    sys.setprofile(note)
    try:
        generate(
            model, processor, "What is it?", image=PACKAGE / "demo" / "example.png", max_tokens=1
        )
    finally:
        sys.setprofile(None)
    return ran


def lines_of(codes: set[CodeType]) -> set[tuple[str, int]]:
    """File and number of the source lines of functions; a nested one is part of the outer one."""
    lines: set[tuple[str, int]] = set()
    for code in codes:
        source, first = inspect.getsourcelines(code)
        lines |= {(code.co_filename, first + i) for i in range(len(source))}
    return lines


def code_lines(path: str) -> set[tuple[str, int]]:
    """The lines of a file that hold code."""
    text = Path(path).read_text()
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            found |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            found -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return {(path, line) for line in found}


def by_file(lines: set[tuple[str, int]]) -> Counter[str]:
    return Counter(str(Path(name).relative_to(PACKAGE)) for name, _ in lines)


def main() -> int:
    lines = lines_of(functions_run())
    code = {line for path in {path for path, _ in lines} for line in code_lines(path)} & lines
    counts, codes = by_file(lines), by_file(code)
    print(" lines  code")
    for name, count in sorted(counts.items()):
        print(f"{count:6}{codes[name]:6} {name}")
    print(f"{len(lines):6}{len(code):6} in {len(counts)} files, at most {LIMIT} of code")
    return int(len(code) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
