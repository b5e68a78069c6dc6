"""Count the lines one reads to follow `generate` from its call to the first token.

    python tools/count_path.py

Runs the demo model on its picture with a profiler and lists, by file, every function of the package
that ran, with the lines of its source (docstrings and comments included). Loading is not part of
the path. Exits 1 if the path has more than LIMIT lines.
"""

import inspect
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType

import mlx_lfm2vl
from mlx_lfm2vl import generate, load

LIMIT = 2600  # 1,722 before messages, images and templates were checked for what tools leave behind
PACKAGE = Path(mlx_lfm2vl.__file__).parent


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


def lines_by_file(codes: set[CodeType]) -> Counter[str]:
    """Distinct source lines of functions, by file; a nested function is part of the outer one."""
    lines: set[tuple[str, int]] = set()
    for code in codes:
        source, first = inspect.getsourcelines(code)
        lines |= {(code.co_filename, first + i) for i in range(len(source))}
    return Counter(str(Path(name).relative_to(PACKAGE)) for name, _ in lines)


def main() -> int:
    counts = lines_by_file(functions_run())
    for name, count in sorted(counts.items()):
        print(f"{count:5} {name}")
    total = counts.total()
    print(f"{total:5} lines in {len(counts)} files, at most {LIMIT}")
    return int(total > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
