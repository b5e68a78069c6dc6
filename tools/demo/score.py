"""Score answers by the facts in them."""

import json
import re
from collections import Counter
from collections.abc import Sequence

Summary = dict[str, dict[str, float]]
NUMBERS = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4, "five": 5}


def score(row: dict, answer: str) -> float:
    """Score one answer.

    Args:
        row: a row of make_eval's eval.jsonl; "category", "answer", "also" and "boxes" are read.
        answer: the model's answer.

    Returns:
        The mean intersection over union for boxes, otherwise 1.0 for right and 0.0 for wrong. A
        description must name the same things and background, in any order. Text must be the same
        string in quotes. Every other answer must be one of the true ones.
    """
    truth = row["answer"]
    if row["category"] == "box":
        return box_score(row["boxes"], answer)
    if row["category"] == "describe":
        return float(_facts(answer) == _facts(truth))
    if row["category"] == "text":
        return float(_quoted(answer) == _quoted(truth))
    return float(_normalised(answer) in map(_normalised, (truth, *row["also"])))


def summarise(rows: Sequence[dict], answers: Sequence[str]) -> Summary:
    """Mean scores of each category, of single words, of tiled images, and of all rows.

    Returns:
        {group: {"all": mean, "plain": mean, "shift": mean, "rows": count}}. The groups are the
        categories in their order, "word" (a line or text that is one word of letters), "tiled" and
        "overall"; groups without rows are left out. "plain" means without a shift, and a mean over
        no rows is left out.
    """
    scores: dict[str, list[tuple[bool, float]]] = {}
    special: dict[str, list[tuple[bool, float]]] = {"word": [], "tiled": [], "overall": []}
    for row, answer in zip(rows, answers, strict=True):
        point = (row["shift"], score(row, answer))
        scores.setdefault(row["category"], []).append(point)
        special["overall"].append(point)
        if row["large"]:
            special["tiled"].append(point)
        if row["category"] == "text" and re.fullmatch("[A-Z]+", _quoted(row["answer"]) or ""):
            special["word"].append(point)
    return {name: _means(points) for name, points in (scores | special).items() if points}


def box_score(truth: Sequence[dict], answer: str) -> float:
    """Mean intersection over union of boxes, matched greedily among those of the same label.

    Args:
        truth: [{"label": str, "bbox": [x1, y1, x2, y2]}].
        answer: such a list as JSON. Anything else scores 0. A missing or surplus box counts as an
            overlap of 0.
    """
    found = parse_boxes(answer)
    if not found or not truth:
        return float(not truth and found == [])
    overlaps = sorted(
        (
            (intersection_over_union(box["bbox"], true["bbox"]), i, j)
            for i, box in enumerate(found)
            for j, true in enumerate(truth)
            if box["label"] == true["label"]
        ),
        reverse=True,
    )
    total, used, matched = 0.0, set(), set()
    for overlap, i, j in overlaps:
        if i not in used and j not in matched:
            total += overlap
            used.add(i)
            matched.add(j)
    return total / max(len(found), len(truth))


def parse_boxes(answer: str) -> list[dict] | None:
    """The answer's list of labels and boxes, or None if it is not such a list as JSON."""
    try:
        rows = json.loads(answer)
    except json.JSONDecodeError:
        return None
    return rows if isinstance(rows, list) and all(_is_box(row) for row in rows) else None


def intersection_over_union(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(one) + _area(other) - width * height)


def _area(box: Sequence[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _is_box(row: object) -> bool:
    if not isinstance(row, dict) or set(row) != {"label", "bbox"}:
        return False
    box = row["bbox"]
    return isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) for x in box)


def _facts(description: str) -> Counter[str] | None:
    """Count what a description names: things in the singular, the background and the text."""
    text = re.search(r'"[^"]*"', description)
    words = description.lower() if not text else description.replace(text[0], "").lower()
    match = re.fullmatch(r"(.+) on an? (.+) background\.?", " ".join(words.split()))
    if not match:
        return None
    facts = Counter({f"background {match[2]}": 1})
    if text:
        facts[text[0]] += 1
    for part in re.split(r", | and ", match[1]):
        number, _, thing = part.strip().partition(" ")
        if thing != "text":
            count = NUMBERS.get(number, 0)
            facts[_singular(thing) if count > 1 else thing] += count
    return facts


def _singular(noun: str) -> str:
    return noun.removesuffix("es" if noun.endswith("sses") else "s")


def _quoted(answer: str) -> str | None:
    match = re.search(r'"([^"]*)"', answer)
    return match[1] if match else None


def _normalised(answer: str) -> str:
    return " ".join(answer.lower().split()).removesuffix(".")


def _means(points: Sequence[tuple[bool, float]]) -> dict[str, float]:
    groups = {
        "all": [value for _, value in points],
        "plain": [value for shift, value in points if not shift],
        "shift": [value for shift, value in points if shift],
    }
    means = {name: sum(values) / len(values) for name, values in groups.items() if values}
    return {**means, "rows": len(points)}
