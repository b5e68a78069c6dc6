"""Pages as people choose them: "1-3,5" or "4-"."""

import re

from ..errors import InputError

MAX_PAGES = 10_000  # of one document
RANGE = re.compile(r"\s*(\d{1,9})\s*(-\s*(\d{1,9})?)?\s*")


def page_ranges(pages: str) -> list[tuple[int, int | None]]:
    """Read a choice of pages, such as "1-3,5": (first, last) of each range, from 1.

    The last of "4-" is None, the end of the document.

    Raises:
        InputError: it is no such choice.
    """
    ranges: list[tuple[int, int | None]] = []
    for text in pages.split(","):
        match = RANGE.fullmatch(text)
        if match is None:
            raise InputError(f"pages is {pages!r:.80}, expected numbers such as 1-3,5 or 4-")
        first = int(match[1])
        last = (int(match[3]) if match[3] else None) if match[2] else first
        if first < 1 or (last is not None and last < first):
            raise InputError(f"pages has {text.strip()!r}, expected the first page, then the last")
        ranges.append((first, last))
    return ranges


def chosen_pages(pages: str, count: int, name: str) -> list[int]:
    """The numbers, from 1, of the pages that are chosen of a document.

    Args:
        pages: a choice as `page_ranges` reads it; empty is all.
        count: of the pages there are.
        name: of the document, for messages.

    Raises:
        InputError: a page is not there, or there are too many.
    """
    there = f"{name} has {count} page{'' if count == 1 else 's'}"
    if not pages:
        if count > MAX_PAGES:
            raise InputError(f"{there}, at most {MAX_PAGES} are read; choose some with --pages")
        return list(range(1, count + 1))
    chosen: list[int] = []
    for first, last in page_ranges(pages):
        end = count if last is None else last
        if max(first, end) > count:
            raise InputError(f"{there}: there is no page {max(first, end)}")
        chosen += range(first, end + 1)
        if len(chosen) > MAX_PAGES:
            raise InputError(f"pages chooses more than {MAX_PAGES} pages")
    return chosen
