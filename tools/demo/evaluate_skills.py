"""Ask a model the held-out questions through the skills, and print their scores.

usage: python tools/demo/evaluate_skills.py MODEL EVAL [--skill NAME] [--own] [--limit N]
       [--json FILE]

MODEL is a checkpoint folder, or demo; EVAL is a folder written by make_eval.py. Each skill gets the
rows that it can answer. It asks with its own words, and reads the answer into a type; --own also
asks the rows' own questions. Greedy, in float32, with the scores of evaluate.py.

    caption   rows of "describe"
    ocr       rows of "text" about the whole text
    detect    rows of "box"
    compare   rows of "compare" that ask what differs
"""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from evaluate import ask_all
from score import score
from wordings import DETECT, DIFFERENCE, LOCATE, READ

from mlx_lfm2vl import Engine, Result, Sampling, load
from mlx_lfm2vl.skills.answers import Caption, Comparison, Detection, ReadText
from mlx_lfm2vl.skills.functions import read_answer
from mlx_lfm2vl.skills.kinds import checkpoint_kind
from mlx_lfm2vl.skills.tasks import Task, make_task

SKILLS = ("caption", "ocr", "detect", "compare")


def named(templates: Iterable[str], question: str) -> str | None:
    """What a question of one of these forms names; None if it has another form."""
    for template in templates:
        before, _, after = template.partition("{}")
        found = re.fullmatch(re.escape(before) + "(.*)" + re.escape(after), question)
        if found:
            return found[1]
    return None


def skill_of(row: dict) -> tuple[str, str | None] | None:
    """The skill that answers a row, and its target; None if no skill does."""
    question = row["question"]
    if row["category"] == "describe":
        return "caption", None
    if row["category"] == "text" and question in READ:
        return "ocr", None
    if row["category"] == "box":
        return "detect", None if named(DETECT, question) else named(LOCATE, question)
    if row["category"] == "compare" and question in DIFFERENCE:
        return "compare", None
    return None


def as_answer(answer: object) -> str:
    """A typed answer in the words of the model, which `score` reads.

    Of boxes it takes the sides from 0 to 1: the pictures are so small that pixels are coarser than
    the two decimals of the truth.
    """
    if isinstance(answer, Detection):
        boxes = [{"label": box.label, "bbox": list(box.relative)} for box in answer.boxes]
        return json.dumps(boxes)
    if isinstance(answer, ReadText):
        return f'The text says "{answer.text}".'
    assert isinstance(answer, Caption | Comparison)
    return answer.text


def ask_skill(engine: Engine, name: str, rows: Sequence[dict], folder: Path) -> list[str]:
    """The answers of a skill to its rows; an answer that cannot be read is empty."""
    kind = checkpoint_kind(engine.model.config)
    tasks: list[Task] = []
    for row in rows:
        options = {"target": skill_of(row)[1]} if name == "detect" else {}
        tasks.append(make_task(name, kind, **options))
    questions = (
        task.messages([folder / image for image in row["images"]])
        for task, row in zip(tasks, rows, strict=True)
    )
    answers = [""] * len(rows)
    longest = max(tasks, key=lambda task: task.options.max_tokens)
    options = longest.options.changed({"sampling": Sampling()})
    for number, result in engine.stream_batch(questions, options, batch_size=16):
        assert isinstance(result, Result), result
        answers[number] = as_answer(read_answer(tasks[number], result))
    return answers


def mean(rows: Sequence[dict], answers: Sequence[str]) -> float:
    return sum(map(score, rows, answers)) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="checkpoint folder, or demo")
    parser.add_argument("eval", type=Path, help="folder that make_eval.py wrote")
    parser.add_argument("--own", action="store_true", help="also ask the rows' own questions")
    parser.add_argument("--skill", choices=SKILLS, help="only this one; default: all")
    parser.add_argument("--limit", type=int, help="most rows of each skill; default: all")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    options = parser.parse_args()
    lines = (options.eval / "eval.jsonl").read_text().splitlines()
    groups: dict[str, list[dict]] = {}
    for row in map(json.loads, lines):
        found = skill_of(row)
        if found and options.skill in (None, found[0]):
            groups.setdefault(found[0], []).append(row)
    engine = Engine(*load(options.model, dtype="float32"))
    summary = {}
    print("| skill | score | of the rows' own questions | number |\n|---|---|---|---|")
    for name, rows in groups.items():
        rows = rows[: options.limit]
        means = {"skill": mean(rows, ask_skill(engine, name, rows, options.eval))}
        if options.own:
            answers = ask_all(engine.model, engine.processor, rows, options.eval)
            means["question"] = mean(rows, answers)
        summary[name] = {**means, "rows": len(rows)}
        cells = [
            f"{100 * means[key]:.1f} %" if key in means else "–" for key in ("skill", "question")
        ]
        print(f"| {name} | {' | '.join(cells)} | {len(rows)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
