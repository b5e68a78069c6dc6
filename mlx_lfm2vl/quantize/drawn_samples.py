"""Drawn pictures with prompts, on which a conversion is compared if the user gives no others."""

from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..prompt.template import Message

INK, PAPER = (30, 30, 30), (250, 248, 240)


def sample_conversations() -> list[list[Message]]:
    """Five single questions: about a scene, a page, a chart and a screen, and one without image."""
    asked = [
        (_scene(), "Describe this image in detail."),
        (_page(), "What is written here?"),
        (_chart(), "Which bar is the tallest, and what does the chart show?"),
        (_screen(), "List the buttons in this screenshot as JSON."),
        (None, "Explain in three sentences how a bicycle stays upright."),
    ]
    return [_question(image, text) for image, text in asked]


def _question(image: Image.Image | None, text: str) -> list[Message]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, {"type": "image", "image": image})
    return [{"role": "user", "content": content}]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _scene() -> Image.Image:
    """A house, the sun and a tree under a sky that darkens upward. 448 x 320 pixels."""
    image = Image.new("RGB", (448, 320))
    pen = ImageDraw.Draw(image)
    for y in range(240):
        pen.line((0, y, 448, y), fill=(90 + y // 4, 150 + y // 4, 190 + y // 4))
    pen.rectangle((0, 240, 448, 320), fill=(90, 160, 70))
    pen.ellipse((350, 25, 410, 85), fill=(250, 210, 60))
    pen.rectangle((90, 150, 230, 250), fill=(200, 120, 90))
    pen.polygon([(75, 150), (245, 150), (160, 85)], fill=(130, 50, 45))
    pen.rectangle((145, 190, 178, 250), fill=(80, 50, 35))
    pen.rectangle((330, 190, 346, 250), fill=(100, 70, 40))
    pen.ellipse((295, 110, 380, 205), fill=(40, 110, 50))
    return image


def _page() -> Image.Image:
    """A short letter. 384 x 512 pixels."""
    image = Image.new("RGB", (384, 512), PAPER)
    pen = ImageDraw.Draw(image)
    pen.text((40, 40), "Harbour Museum", INK, _font(32))
    lines = ("Opening hours", "Mon - Fri   10:00 - 18:00", "Sat             11:00 - 16:00")
    lines += ("Sunday closed", "", "Tickets 7.50, children free.", "Ask for the lighthouse key.")
    for row, line in enumerate(lines):
        pen.text((40, 110 + 42 * row), line, INK, _font(20))
    return image


def _chart() -> Image.Image:
    """A chart of four labeled bars. 512 x 384 pixels."""
    image = Image.new("RGB", (512, 384), (255, 255, 255))
    pen = ImageDraw.Draw(image)
    pen.text((130, 15), "Visitors per season", INK, _font(24))
    bars = {"Spring": 140, "Summer": 250, "Autumn": 180, "Winter": 60}
    colors = ((90, 170, 90), (230, 170, 40), (190, 90, 40), (80, 130, 200))
    for place, (name, height) in enumerate(bars.items()):
        x = 60 + 110 * place
        pen.rectangle((x, 330 - height, x + 70, 330), fill=colors[place])
        pen.text((x, 340), name, INK, _font(18))
    return image


def _screen() -> Image.Image:
    """A window with three buttons, large enough to be split into tiles. 1280 x 720 pixels."""
    image = Image.new("RGB", (1280, 720), (225, 228, 235))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 1280, 56), fill=(60, 70, 95))
    pen.text((24, 12), "Photo library", (255, 255, 255), _font(26))
    for place, name in enumerate(("Import", "Export", "Delete")):
        x = 90 + 400 * place
        pen.rounded_rectangle((x, 320, x + 260, 400), 16, fill=(70, 120, 210))
        pen.text((x + 80, 340), name, (255, 255, 255), _font(30))
    return image
