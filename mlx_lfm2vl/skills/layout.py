"""The layout of documents: what the model wrote, as regions with a place, and as Markdown.

LFM2.5-VL-3B answers its layout prompt with one block per region, in reading order:

    image_index=0 title [76, 68, 544, 94]
    Quarterly report

Blank lines also stand within a region, so blocks begin at header lines and nowhere else. A
published answer has the word `label` in place of the label.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..errors import AnswerError
from .boxes import Box, Size, box_of
from .otsl import Table, parse_otsl

logger = logging.getLogger(__name__)

LABELS = (
    "text",
    "title",
    "list",
    "table",
    "table_caption",
    "table_footnote",
    "image",
    "image_block",
    "image_caption",
    "image_footnote",
    "chart",
    "equation",
    "formula_number",
    "code",
    "code_caption",
    "algorithm",
    "aside_text",
    "ref_text",
    "phonetic",
    "page_header",
    "page_footer",
    "page_number",
    "page_footnote",
)
MARGIN = ("page_header", "page_footer", "page_number")  # not part of the running text
SHOWN = 80  # characters of an answer in a message

# Bounded, so that a damaged line costs no more than its length.
_NUMBER = r"\s{0,4}([-+.\deE]{1,20})\s{0,4}"
_HEADER = re.compile(
    r"\s{0,8}image_index\s{0,4}=\s{0,4}(\d{1,9})\s{1,4}<?(\w{1,40})>?\s{0,4}"
    rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\](.*)",
    re.DOTALL,
)
_BEGIN = re.compile(r"\s{0,8}image_index\s{0,4}=")
_FENCE = "```"


@dataclass(frozen=True)
class Region:
    """One region of a page.

    Attributes:
        label: one of `LABELS`, or another word that the model chose.
        box: where it is; None if the model wrote a box that cannot be read.
        content: text, LaTeX of an equation, OTSL of a table, or the description of an image.
    """

    label: str
    box: Box | None
    content: str

    @property
    def table(self) -> Table | None:
        """The table; None if the region is none, or its content is not OTSL."""
        if self.label != "table":
            return None
        try:
            return parse_otsl(self.content)
        except AnswerError:
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return the region as plain data; a table also in the three forms that programs read."""
        box = self.box.to_dict() if self.box else {"image": None, "pixels": None, "relative": None}
        values = {**box, "label": self.label, "content": self.content}
        table = self.table
        if table is not None:
            values["table"] = {
                "markdown": table.to_markdown(),
                "csv": table.to_csv(),
                "html": table.to_html(),
            }
        return values


def parse_layout(text: str, sizes: Sequence[Size]) -> list[Region]:
    """Read the regions of an answer, and log a warning about boxes that cannot be read.

    Args:
        text: the answer; code fences or text before the first region are left out.
        sizes: (height, width) of each upright page image.

    Returns:
        The regions in reading order; none of an empty answer. A header line that is cut off at the
        end is left out.

    Raises:
        AnswerError: the answer is not empty and has no region.
    """
    lines = text.strip().split("\n")
    begins = [i for i, line in enumerate(lines) if _BEGIN.match(line)]
    is_fenced = lines[0].startswith(_FENCE) and lines[-1].strip() == _FENCE
    last = len(lines) - is_fenced
    regions: list[Region] = []
    for begin, end in pairwise([*begins, last]):
        header = _HEADER.match(lines[begin])
        content = lines[begin + 1 : end]
        if header is None and not "".join(content).strip() and end == last:
            logger.warning("the answer is cut off at %r", _shown(lines[begin]))
            continue
        regions.append(_region(lines[begin], header, content, sizes))
    if not regions and text.strip("` \n"):
        raise AnswerError(
            f"the answer is {_shown(text)!r}, expected regions as "
            "image_index=0 text [left, top, right, bottom]"
        )
    return regions


def to_markdown(regions: Iterable[Region], *, margins: bool = False) -> str:
    """Return regions as one Markdown text.

    Args:
        regions: in reading order.
        margins: with the headers, footers and numbers of pages.
    """
    blocks: list[str] = []
    titles = 0
    for region in regions:
        if not region.content or (region.label in MARGIN and not margins):
            continue
        titles += region.label == "title"
        blocks.append(_block(region, "#" if titles == 1 else "##"))
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _region(
    line: str, header: re.Match[str] | None, content: Sequence[str], sizes: Sequence[Size]
) -> Region:
    if header is None:
        logger.warning("the place of a region cannot be read: %r", _shown(line))
        words = [word for word in re.findall(r"\w+", line[:200]) if word in LABELS]
        return Region(words[0] if words else "text", None, "\n".join(content).strip())
    number, label, *sides, rest = header.groups()
    text = "\n".join([rest, *content]).strip()
    try:
        item = {"image_id": int(number), "bbox_2d": list(map(_number, sides)), "label": label}
        return Region(label, box_of(item, sizes), text)
    except (AnswerError, ValueError) as error:
        logger.warning("the place of a region cannot be read: %s", error)
        return Region(label, None, text)


def _number(text: str) -> float:
    """Read a number; without a decimal point it is an integer, which tells the scale of boxes."""
    return float(text) if set(text) & set(".eE") else int(text)


def _block(region: Region, mark: str) -> str:
    label, content = region.label, region.content
    table = region.table
    if table is not None:
        return table.to_markdown()
    if label == "title":
        return f"{mark} {' '.join(content.lstrip('# ').split())}"
    if label == "equation":
        return content if content.startswith(("$", "\\[", "\\begin")) else f"$$\n{content}\n$$"
    if label in ("code", "algorithm") and not content.startswith(_FENCE):
        longest = max(map(len, re.findall("`+", content)), default=0)
        fence = "`" * max(3, longest + 1)
        return f"{fence}\n{content}\n{fence}"
    if label in ("image", "image_block", "chart"):
        return f"*{'Chart' if label == 'chart' else 'Image'}: {' '.join(content.split())}*"
    return content


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
