"""Plot where the time goes, with one bar for every stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..drawing import Canvas, Theme, linear_ticks, save_both, shorten, tick_labels, width_of

WIDTH, EDGE = 900, 24  # points
LEFT, RIGHT = 190, 100  # space beside the bars, for labels and values
TOP, BOTTOM = 76, 66  # space above the groups for the title, and below for the axis and its note
TITLE, ROW, PEER_ROW, GAP = 30, 26, 14, 12  # heights; GAP is between groups
BAR, PEER_BAR, INDENT = 14, 8, 14
NOTE = "Parts of the first token are measured one by one; in use they overlap."


@dataclass(frozen=True)
class Bar:
    """The time that one stage takes.

    Attributes:
        label: name of the stage.
        seconds: our time.
        peer_seconds: mlx-vlm's time, or None where it cannot be measured.
        is_part: whether it is part of the stage shown by the last bar that is not a part.
    """

    label: str
    seconds: float
    peer_seconds: float | None = None
    is_part: bool = False


@dataclass(frozen=True)
class Group:
    """The bars of one image."""

    title: str
    bars: Sequence[Bar]


def plot_stages(groups: Sequence[Group], picture: Path, origin: str) -> None:
    """Write a PNG with our times in blue and mlx-vlm's in orange.

    Args:
        groups: at least one bar in total; all bars have the same scale.
        picture: PNG to write; a version for dark pages is written beside it.
        origin: model, chip, date or the like, shown below the title.

    Raises:
        InputError: the pictures cannot be written.
    """
    save_both(lambda theme: draw_stages(groups, origin, theme), picture)


def draw_stages(groups: Sequence[Group], origin: str, theme: Theme) -> Canvas:
    """Draw the picture of groups of bars."""
    bars = [bar for group in groups for bar in group.bars]
    heights = [TITLE + sum(map(_row_height, group.bars)) for group in groups]
    bottom = TOP + sum(heights) + GAP * (len(groups) - 1)
    canvas = Canvas(WIDTH, bottom + BOTTOM, theme)
    canvas.text(EDGE, 28, "Where the time goes", size=18)
    canvas.text(EDGE, 52, shorten(origin, WIDTH - 2 * EDGE), color=theme.muted)
    has_peer = any(bar.peer_seconds is not None for bar in bars)
    if has_peer:
        canvas.legend(WIDTH - EDGE, 28, [("mlx_lfm2vl", theme.blue), ("mlx-vlm", theme.orange)])
    longest = max(max(bar.seconds, bar.peer_seconds or 0.0) for bar in bars) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / longest
    tops = [TOP + sum(heights[:n]) + GAP * n for n in range(len(groups))]
    spans = [(top + TITLE, top + height) for top, height in zip(tops, heights, strict=True)]
    _draw_axis(canvas, scale, longest, spans)
    for group, y in zip(groups, tops, strict=True):
        canvas.text(EDGE, y + TITLE / 2, shorten(group.title, WIDTH - 2 * EDGE))
        y += TITLE
        for bar in group.bars:
            _draw_bar(canvas, bar, y, scale)
            y += _row_height(bar)
    if any(bar.is_part for bar in bars):
        canvas.text(EDGE, bottom + BOTTOM - 20, NOTE, color=theme.muted)
    return canvas


def _row_height(bar: Bar) -> int:
    return ROW + (PEER_ROW if bar.peer_seconds is not None else 0)


def _draw_axis(
    canvas: Canvas, scale: float, longest: float, spans: Sequence[tuple[float, float]]
) -> None:
    """Draw vertical lines through the groups at round times, labeled below the last group."""
    unit, seconds = ("s", 1.0) if longest >= 1 else ("ms", 1e-3)
    ticks = linear_ticks(0, longest / seconds)
    color = canvas.theme.grid
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        x = LEFT + scale * seconds * tick
        for top, bottom in spans:
            canvas.line([(x, top), (x, bottom)], canvas.theme.muted if tick == 0 else color, 1)
        label = f"{label} {unit}" if tick else "0"
        canvas.text(x, spans[-1][1] + 14, label, color=canvas.theme.muted, align="middle")


def _draw_bar(canvas: Canvas, bar: Bar, top: float, scale: float) -> None:
    theme, y = canvas.theme, top + ROW / 2
    canvas.text(EDGE + INDENT * bar.is_part, y, bar.label)
    color = theme.pale_blue if bar.is_part else theme.blue
    _draw_time(canvas, bar.seconds, y, BAR, scale, color)
    if bar.peer_seconds is not None:
        y = top + ROW + PEER_ROW / 2 - 2
        color = theme.pale_orange if bar.is_part else theme.orange
        _draw_time(canvas, bar.peer_seconds, y, PEER_BAR, scale, color)


def _draw_time(
    canvas: Canvas, seconds: float, y: float, height: float, scale: float, color: str
) -> None:
    """Draw a bar centered on y and its value on a background that hides the grid lines."""
    end, value = LEFT + scale * seconds, _duration(seconds)
    canvas.bar(LEFT, y - height / 2, end, y + height / 2, color)
    canvas.bar(end + 4, y - 6, end + 12 + width_of(value), y + 6, canvas.theme.background)
    canvas.text(end + 8, y, value)


def _duration(seconds: float) -> str:
    """Seconds or milliseconds with three significant digits or more."""
    value, unit = (seconds, "s") if seconds >= 1 else (1000 * seconds, "ms")
    return f"{value:,.0f} {unit}" if value >= 99.95 else f"{value:#.3g} {unit}"
