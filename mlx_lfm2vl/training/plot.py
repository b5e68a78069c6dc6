"""The loss curve of a run as a picture."""

from pathlib import Path

from PIL import Image, ImageDraw

from ..palette import BLUE, GREY, INK, ORANGE
from .log import read_log

WIDTH, HEIGHT, MARGIN = 900, 500, 60


def plot_log(log: Path, picture: Path) -> None:
    """Draw training (blue) and validation (orange) loss over steps from a JSONL log."""
    entries = read_log(log)
    training = [(entry["step"], entry["loss"]) for entry in entries]
    validation = [(e["step"], e["validation_loss"]) for e in entries if "validation_loss" in e]
    losses = [loss for _, loss in training + validation]
    top, last = max(losses, default=1.0) * 1.05 or 1.0, max((s for s, _ in training), default=1)

    def point(step: int, loss: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / last
        return x, HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * loss / top

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for tick in range(6):
        loss, step = top * tick / 5, round(last * tick / 5)
        y, x = point(0, loss)[1], point(step, 0)[0]
        draw.line([(MARGIN, y), (WIDTH - MARGIN, y)], GREY)
        draw.text((8, y - 6), f"{loss:.3g}", INK)
        draw.text((x - 8, HEIGHT - MARGIN + 8), str(step), INK)
    draw.text((MARGIN, 16), "loss per token", INK)
    draw.text((MARGIN + 110, 16), "training", BLUE)
    draw.text((MARGIN + 180, 16), "validation", ORANGE)
    draw.text((WIDTH - MARGIN - 20, HEIGHT - MARGIN + 26), "step", INK)
    for points, colour in ((training, BLUE), (validation, ORANGE)):
        line = [point(step, loss) for step, loss in points]
        if len(line) > 1:
            draw.line(line, colour, 2)
        for x, y in line if colour == ORANGE else []:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], colour)
    image.save(picture)
