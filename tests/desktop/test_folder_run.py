"""Folder runs: each picture gets its record, also after the process was killed anywhere."""

import os
import shutil
from itertools import chain
from pathlib import Path

import pytest
from folder_runs import (
    OPTIONS,
    SETTINGS,
    FakeEngine,
    ask,
    asked,
    asked_fake,
    by_file,
    draw,
    records,
)
from pictures import make_picture
from PIL import Image

from mlx_lfm2vl import AnswerOptions, Engine, InputError, generate
from mlx_lfm2vl.desktop.folder_run import FolderRun, settings_of
from mlx_lfm2vl.desktop.journal import Journal
from mlx_lfm2vl.images.drawn import Part
from mlx_lfm2vl.images.gather import gather
from mlx_lfm2vl.images.inputs import Input
from mlx_lfm2vl.options import ImageOptions, Sampling
from mlx_lfm2vl.skills.skill import Skill

NAMES = [f"{number}.png" for number in range(7)]


def test_each_picture_gets_the_answer_that_it_gets_alone(tiny, tmp_path):
    inputs = draw(tmp_path, NAMES)
    found = asked(tiny, tmp_path / "r.jsonl", inputs, skill=ask("What is {name}?"))
    assert len(found) == len(NAMES)
    for given in inputs:
        question = f"What is {given.path.stem}?"
        alone = generate(*tiny, question, OPTIONS, image=given.path, seed=0)
        record = by_file(found)[given.name]
        assert record["text"] == alone.text
        assert record["size"] == [*alone.images[0].size]
        assert record["file"] == str(given.path)
        assert record["finish_reason"] == alone.finish_reason


def test_what_cannot_be_read_has_a_record_with_the_reason(tiny, tmp_path):
    inputs = draw(tmp_path, ["a.png", "bad.png", "b.png"])
    inputs.insert(1, Input("gone.png", tmp_path / "gone.png", tmp_path / "gone.png"))
    found = by_file(asked(tiny, tmp_path / "r.jsonl", inputs))
    assert "is damaged" in found["bad.png"]["error"]
    assert "does not exist" in found["gone.png"]["error"]
    assert found["bad.png"]["exit_code"] == 2
    assert found["a.png"]["text"]
    assert found["b.png"]["text"]


def test_an_answer_that_cannot_be_read_is_an_error_with_its_text(tiny, tmp_path):
    def read(*_):
        raise InputError("no JSON in it")

    skill = ask("What is this?")
    skill = Skill(skill.name, skill.messages, skill.options, read)
    (record,) = asked(tiny, tmp_path / "r.jsonl", draw(tmp_path, ["a.png"]), skill=skill)
    assert record["error"] == "no JSON in it"
    assert record["text"]


def test_equal_pictures_are_asked_about_once(tiny, tmp_path):
    inputs = draw(tmp_path, ["a.png", "b.png"])
    for name in ("copy.png", "later.png"):
        shutil.copy(tmp_path / "a.png", tmp_path / name)
        inputs.append(Input(name, tmp_path / name, tmp_path / name))
    counts = []
    options = {"report": lambda now: counts.append((now.answered, now.copied))}
    found = by_file(asked(tiny, tmp_path / "r.jsonl", inputs, **options))
    assert counts[-1] == (2, 2)
    for name in ("copy.png", "later.png"):
        assert found[name]["text"] == found["a.png"]["text"]
        assert found[name]["same_as"] == str(tmp_path / "a.png")
    assert "same_as" not in found["b.png"]


def test_pictures_whose_turn_has_come_are_not_held(tiny, tmp_path):
    inputs = draw(tmp_path, ["a.png", "b.png", "c.png"])
    shutil.copy(tmp_path / "a.png", tmp_path / "c.png")
    journal, held = Journal(tmp_path / "r.jsonl", SETTINGS), []

    def read(_given, results):
        asked = [one.picture for one, _ in run._asked.values()]
        for each in (*asked, *chain.from_iterable(run._equal.values())):
            held.append((each.given.name, each.images))
        return {"text": results[0].text}

    run = FolderRun(FakeEngine(tiny[1]), ask(), journal, SETTINGS, read=read)
    run.run(inputs)
    journal.close()
    assert held == [("a.png", ()), ("c.png", ()), ("c.png", ())]


def test_equal_pictures_with_different_questions_are_different(tiny, tmp_path):
    first, second = draw(tmp_path, ["a.png", "b.png"])
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    found = asked(tiny, tmp_path / "r.jsonl", [first, second], skill=ask("What is {name}?"))
    assert not any("same_as" in record for record in found)


def test_pages_times_and_parts_of_a_file_are_pictures_of_their_own(tiny, tmp_path):
    (given,) = draw(tmp_path, ["a.png"])
    part = Part(2, 3, 10, 12, (20, 30))
    inputs = [
        Input("a, page 1", given.path, given.path, page=1),
        Input("a, page 2", make_picture(9, 9, 1), given.path, page=2),
        Input("a, 2.5 s", make_picture(9, 9, 2), given.path, seconds=2.5),
        Input("a, part", make_picture(9, 9, 3), given.path, part=part),
        Input("clipboard", make_picture(9, 9, 4)),
    ]
    found = asked(tiny, tmp_path / "r.jsonl", inputs)
    kept = [{k: r[k] for k in ("page", "seconds", "part") if k in r} for r in found]
    assert sorted(kept, key=str) == sorted(
        [
            {"page": 1},
            {"page": 2},
            {"seconds": 2.5},
            {"part": {"left": 3, "top": 2, "width": 12, "height": 10}},
            {},
        ],
        key=str,
    )
    assert {"clipboard", str(given.path)} == {record["file"] for record in found}
    assert len({record["key"] for record in found}) == 5


def test_a_rerun_asks_only_about_what_is_new_changed_or_failed(tiny, tmp_path):
    inputs = draw(tmp_path, ["a.png", "bad.png", "b.png"])
    before = by_file(asked(tiny, tmp_path / "r.jsonl", inputs))
    make_picture(25, 25, 50).save(tmp_path / "a.png")
    make_picture(25, 25, 51).save(tmp_path / "bad.png")
    inputs += draw(tmp_path, ["z.png"])  # as a.png was, which is now another picture
    handed_on, counts = [], []
    options = {
        "on_record": lambda given, _: handed_on.append(given.name),
        "on_known": lambda given, _: handed_on.append(given.name),
        "report": lambda now: counts.append((now.answered, now.copied, now.known)),
    }
    after = by_file(asked(tiny, tmp_path / "r.jsonl", inputs, **options))
    assert counts[-1] == (2, 1, 1)
    assert sorted(handed_on) == ["a.png", "b.png", "bad.png", "z.png"]
    assert len(after) == 4
    assert len(records(tmp_path / "r.jsonl")) == 4
    assert after["b.png"] == before["b.png"]
    assert after["a.png"]["key"] != before["a.png"]["key"] == after["z.png"]["key"]
    assert "same_as" not in after["z.png"]
    assert "error" not in after["bad.png"]


@pytest.mark.parametrize(
    "other",
    [
        {"skill": ask("What is that?")},
        {"skill": ask("What is this?", AnswerOptions(max_tokens=4, sampling=Sampling()))},
        {"skill": ask("What is this?", OPTIONS.changed({"image_options": ImageOptions(2)}))},
        {"skill": ask("What is this?", OPTIONS.changed({"seed": 7}))},
    ],
    ids=["prompt", "length", "image options", "seed"],
)
def test_answers_of_other_settings_are_never_mixed(tiny, tmp_path, other):
    inputs = draw(tmp_path, ["a.png"])
    asked(tiny, tmp_path / "r.jsonl", inputs)
    before = (tmp_path / "r.jsonl").read_bytes()
    with pytest.raises(InputError, match="answers of other settings .*--restart"):
        asked(tiny, tmp_path / "r.jsonl", inputs, **other)
    assert (tmp_path / "r.jsonl").read_bytes() == before


def test_settings_know_the_weights_and_how_an_answer_is_read(tiny):
    engine, skill = Engine(*tiny), ask()
    digest = settings_of(engine, skill, "tiny").digest
    assert settings_of(engine, skill, "other/name").digest == digest
    told = ask(options=OPTIONS.changed({"on_prefill": print}))
    assert settings_of(engine, told, "tiny").digest == digest
    assert settings_of(engine, skill, "tiny", {"length": "alt"}).digest != digest
    norm = engine.model.language_model.embedding_norm
    kept, norm.weight = norm.weight, norm.weight * 1.5
    assert settings_of(engine, skill, "tiny").digest != digest
    norm.weight = kept
    assert settings_of(engine, skill, "tiny").digest == digest


def test_a_hook_sees_each_record_before_it_is_kept_and_may_refuse_it(tiny, tmp_path):
    out = tmp_path / "r.jsonl"

    def write_back(given, record):
        assert record["key"] not in out.read_text() or "same_as" in record
        if given.name == "b.png":
            raise InputError("no room for a sidecar")

    found = by_file(asked(tiny, out, draw(tmp_path, ["a.png", "b.png"]), on_record=write_back))
    assert found["b.png"]["error"] == "no room for a sidecar"
    assert "text" not in found["b.png"]
    assert found["a.png"]["text"]


def test_a_known_answer_that_cannot_be_handed_on_is_a_failure(tiny, tmp_path):
    def refuse(*_):
        raise InputError("no room for a sidecar")

    inputs = draw(tmp_path, ["a.png"])
    assert "error" not in asked_fake(tiny[1], tmp_path / "r.jsonl", inputs)[0]
    (record,) = asked_fake(tiny[1], tmp_path / "r.jsonl", inputs, on_known=refuse)
    assert record["error"] == "no room for a sidecar"


def test_the_batch_goes_on_while_there_is_no_new_picture(tiny, tmp_path):
    inputs = draw(tmp_path, NAMES[:2])
    answered = []

    def stream():
        yield inputs[0]
        for _ in range(10**6):  # nothing new until the first is answered
            if answered:
                break
            yield None
        yield inputs[1]

    found = asked(tiny, tmp_path / "r.jsonl", stream(), on_record=lambda *_: answered.append(1))
    assert len(found) == 2


def test_answers_may_also_come_one_by_one_without_a_batch(tiny, tmp_path):
    inputs = draw(tmp_path, ["a.png", "bad.png", "b.png"])
    shutil.copy(tmp_path / "a.png", tmp_path / "same.png")
    inputs.append(Input("same.png", tmp_path / "same.png", tmp_path / "same.png"))
    seen = []

    def direct(image, facts):
        seen.append(facts["name"])
        if facts["name"] == "b":
            raise InputError("no label fits")
        return {"choice": f"{image.plan.size}"}

    skill = ask("What is this?")
    found = by_file(asked(tiny, tmp_path / "r.jsonl", inputs, skill=skill, direct=direct))
    assert seen == ["a", "b"]
    assert found["a.png"]["choice"] == found["same.png"]["choice"] == "(20, 30)"
    assert found["b.png"]["error"] == "no label fits"
    assert "damaged" in found["bad.png"]["error"]


def test_how_an_answer_is_read_may_depend_on_the_picture(tiny, tmp_path):
    def read(given, results):
        return {"name": given.name, "tokens": len(results[0].token_ids)}

    (record,) = asked(tiny, tmp_path / "r.jsonl", draw(tmp_path, ["a.png"]), read=read)
    assert (record["name"], record["tokens"]) == ("a.png", 3)


@pytest.mark.slow
def test_500_files_of_every_awkward_kind_have_their_records(tiny, tmp_path):
    """Kinds, names and damage as folders have them; a tenth of the files is damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(450):
        awkward_file(folder, number)
    for number in range(50):
        damaged_file(folder, number)
    inputs = list(gather([str(folder)]))
    assert len(inputs) == 500
    found = asked_fake(tiny[1], tmp_path / "r.jsonl", inputs)
    assert len(found) == len(by_file(found)) == 500
    failed = [record for record in found if "error" in record]
    assert sorted(Path(record["file"]).name[:6] for record in failed) == ["broken"] * 50
    assert len({record["text"] for record in found if "text" in record}) > 100
    again = asked_fake(tiny[1], tmp_path / "r.jsonl", inputs)
    assert sorted(again, key=str) == sorted(found, key=str)


KINDS = ("png", "jpg", "webp", "gif", "bmp", "tif", "ppm", "tga", "jp2")
NAMES_OF_FILES = ("IMG {}.{}", "Bildschirmfoto\u202f{}.{}", "~{}.{}", "a'\"\\{}.{}", "-{}.{}")


def awkward_file(folder: Path, number: int) -> None:
    """Write a whole picture of one of many kinds, turned, transparent, deep or without colors."""
    kind = KINDS[number % len(KINDS)]
    name = NAMES_OF_FILES[number % len(NAMES_OF_FILES)].format(number, kind)
    picture = make_picture(12 + number % 9, 10 + number % 31, number)
    options = {}
    if kind in ("png", "tif", "webp") and number % 2:
        picture.putalpha(number % 256)
    if kind == "jpg":
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        options["exif"] = exif
        picture = picture.convert(("RGB", "L", "CMYK")[number % 3])
    if kind == "gif":
        options = {"save_all": True, "append_images": [make_picture(12, 10, 1)]}
    picture.save(folder / (name.upper() if number % 7 == 0 else name), **options)


def damaged_file(folder: Path, number: int) -> None:
    """Write what looks like a picture and is none."""
    path = folder / f"broken{number}.{('png', 'jpg', 'tif')[number % 3]}"
    make_picture(40, 40, number).save(path)
    data = path.read_bytes()
    path.write_bytes(
        (b"", data[:9], data[: len(data) // 2], b"<html>404</html>", bytes(500))[number % 5]
    )


# -- killed --


class Killed(BaseException):
    """The process is gone: from now on it writes nothing."""


def dying(monkeypatch, at: int) -> None:
    """Let the process die at the n-th write or fsync, in the middle of a line that is written."""
    write, fsync, calls = os.write, os.fsync, []

    def dying_write(file, data):
        calls.append("write")
        if len(calls) == at + 1:
            write(file, bytes(data)[: len(data) // 2])
        if len(calls) > at:
            raise Killed
        return write(file, data)

    def dying_fsync(file):
        calls.append("fsync")
        if len(calls) > at:
            raise Killed
        fsync(file)

    monkeypatch.setattr(os, "write", dying_write)
    monkeypatch.setattr(os, "fsync", dying_fsync)


def test_a_run_that_was_killed_anywhere_ends_as_one_that_was_not(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.desktop.journal.SYNC_SECONDS", 0)
    inputs = draw(tmp_path, [*NAMES, "bad.png", "gone.png"])
    shutil.copy(tmp_path / "1.png", tmp_path / "same.png")
    (tmp_path / "gone.png").unlink()
    inputs.append(Input("same.png", tmp_path / "same.png", tmp_path / "same.png"))
    processor = tiny[1]
    whole = by_file(asked_fake(processor, tmp_path / "whole.jsonl", inputs))
    assert len(whole) == 10
    assert sum("error" in record for record in whole.values()) == 2
    for at in range(20):
        out = tmp_path / f"{at}.jsonl"
        with monkeypatch.context() as patch:
            dying(patch, at)
            with pytest.raises(Killed):
                asked_fake(processor, out, inputs)
        assert out.read_bytes().count(b"\n") == (at + 1) // 2
        found = asked_fake(processor, out, inputs)
        assert len(found) == 10
        assert by_file(found) == whole
