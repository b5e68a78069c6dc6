"""The typed answers of the skills. `to_dict` gives each as plain data for JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .boxes import Box
    from .layout import Region

Length = Literal["short", "normal", "detailed", "alt"]
Form = Literal["text", "markdown"]


@dataclass(frozen=True)
class Caption:
    """What an image shows, in words."""

    text: str
    length: Length

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "length": self.length}


@dataclass(frozen=True)
class Keywords:
    """What to find an image by."""

    keywords: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"keywords": list(self.keywords)}


@dataclass(frozen=True)
class ReadText:
    """The text in an image."""

    text: str
    form: Form

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text, "form": self.form}


@dataclass(frozen=True)
class Layout:
    """The regions of a document's pages, in reading order."""

    regions: tuple[Region, ...]

    @property
    def markdown(self) -> str:
        """The document as Markdown."""
        from .layout import to_markdown

        return to_markdown(self.regions)

    def to_dict(self) -> dict[str, Any]:
        regions = [region.to_dict() for region in self.regions]
        return {"regions": regions, "markdown": self.markdown}


@dataclass(frozen=True)
class Detection:
    """Where things are."""

    boxes: tuple[Box, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"boxes": [box.to_dict() for box in self.boxes]}


@dataclass(frozen=True)
class Point:
    """A place in an image, such as where to click.

    Attributes:
        x: pixels from the left of the upright original; None if the model saw no such place.
        y: pixels from the top.
        box: what the place is the middle of.
    """

    x: int | None
    y: int | None
    box: Box | None

    def to_dict(self) -> dict[str, Any]:
        return {"x": self.x, "y": self.y, "box": self.box and self.box.to_dict()}


@dataclass(frozen=True)
class Choice:
    """Which of some labels fits best, as the model wrote it."""

    choice: str

    def to_dict(self) -> dict[str, Any]:
        return {"type": "choice", "choice": self.choice}


@dataclass(frozen=True)
class Extraction:
    """The values of fields; None where the answer has none."""

    values: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"values": self.values}


@dataclass(frozen=True)
class Comparison:
    """What differs between images, in words."""

    text: str

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True)
class Reply:
    """The answer to a question."""

    text: str

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text}
