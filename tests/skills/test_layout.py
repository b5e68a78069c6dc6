"""The layout of documents is read from the published form, and from damaged ones."""

import contextlib
import random
import time

import pytest

from mlx_lfm2vl.errors import AnswerError
from mlx_lfm2vl.skills.layout import LABELS, parse_layout, to_markdown

SIZES = [(1000, 2000), (500, 500)]
PAGES = """image_index=0 page_header [0, 0, 1000, 20]
ACME

image_index=0 title [76, 68, 544, 94]
Quarterly
report

image_index=0 text [76, 100, 900, 300]
First paragraph.

Second paragraph, about image_index=0 text [1, 2, 3, 4].

image_index=0 table [76, 310, 900, 400]
<ched>Item<ched>Price<nl><fcel>Tea<fcel>3<nl>

image_index=0 label [144, 68, 144, 94]
A label of its own

image_index=1 title [0, 0, 1000, 100]
Second page

image_index=1 equation [0, 100, 1000, 200]
E = mc^2

image_index=1 code [0, 200, 1000, 300]
a = `b`

image_index=1 chart [0, 300, 1000, 400]
Prices rise."""
MARKDOWN = """# Quarterly report

First paragraph.

Second paragraph, about image_index=0 text [1, 2, 3, 4].

| Item | Price |
| --- | --- |
| Tea | 3 |

A label of its own

## Second page

$$
E = mc^2
$$

```
a = `b`
```

*Chart: Prices rise.*
"""


def place(region):
    assert region.box
    return region.box.image, region.box.pixels


def test_the_published_form_gives_regions_in_pixels():
    regions = parse_layout(PAGES, SIZES)
    assert [region.label for region in regions] == [
        *("page_header", "title", "text", "table", "label"),
        *("title", "equation", "code", "chart"),
    ]
    assert regions[2].content.count("\n\n") == 1
    assert [place(region)[0] for region in regions] == [0] * 5 + [1] * 4
    assert place(regions[1]) == (0, (152, 68, 1088, 94))
    assert place(regions[4]) == (0, (288, 68, 289, 94))
    assert place(regions[8]) == (1, (0, 150, 500, 200))
    assert regions[1].to_dict() == {
        "image": 0,
        "label": "title",
        "pixels": [152, 68, 1088, 94],
        "relative": [0.076, 0.068, 0.544, 0.094],
        "content": "Quarterly\nreport",
    }
    assert regions[3].to_dict()["table"]["csv"] == "Item,Price\nTea,3\n"
    assert len(LABELS) == 23


def test_the_regions_are_one_markdown_text():
    regions = parse_layout(PAGES, SIZES)
    assert to_markdown(regions) == MARKDOWN
    assert to_markdown(regions, margins=True) == f"ACME\n\n{MARKDOWN}"
    assert to_markdown([]) == ""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("```\n", "\n```"),
        ("Here are the regions:\n\n", ""),
        ("\n\n", "\n\n\n"),
        ("", "\n\nimage_index=1 text [0, 1"),  # cut off
    ],
)
def test_fences_and_text_around_and_a_cut_header_change_nothing(before, after):
    assert parse_layout(before + PAGES + after, SIZES) == parse_layout(PAGES, SIZES)


def test_a_place_that_cannot_be_read_loses_no_text(caplog):
    text = "image_index=0 list [1, 2, 3]\n- a\n\nimage_index=5 text [1, 2, 3, 4]\nb\n\n"
    regions = parse_layout(f"{text}image_index=0 text [1, 2, 3, 40000] c", SIZES)
    assert [(r.label, r.box, r.content) for r in regions] == [
        ("list", None, "- a"),
        ("text", None, "b"),
        ("text", None, "c"),
    ]
    assert regions[0].to_dict()["pixels"] is None
    assert "image_id of a box is '5', expected 0 to 1" in caplog.text
    assert caplog.text.count("the place of a region cannot be read") == 3


def test_tables_that_are_not_otsl_stay_as_they_are():
    (region,) = parse_layout("image_index=0 table [1, 2, 3, 4]\n| a |\n| --- |", SIZES)
    assert region.table is None
    assert to_markdown([region]) == "| a |\n| --- |\n"
    assert "table" not in region.to_dict()


def test_an_empty_answer_is_a_blank_page_and_prose_is_an_error():
    assert parse_layout("", SIZES) == parse_layout("```\n\n```", SIZES) == []
    with pytest.raises(AnswerError, match=r"'I see a page\.', expected regions as image_index=0"):
        parse_layout("I see a page.", SIZES)


def test_damaged_answers_give_regions_or_one_kind_of_error():
    chance = random.Random(11)
    read = 0
    for _ in range(300):
        letters = list(PAGES)
        for _ in range(chance.randint(1, 12)):
            at = chance.randrange(len(letters))
            piece = chance.choice([*"[]<>=,|`$\n-.e9", "image_index=", "<lcel>", "NaN", "\ud800"])
            letters[at : at + chance.choice([0, 1, 3, 40])] = list(piece)
        try:
            regions = parse_layout("".join(letters), SIZES)
        except AnswerError:
            continue
        read += len(regions)
        assert isinstance(to_markdown(regions), str)
        assert all(region.to_dict() for region in regions)
    assert read > 1000


@pytest.mark.parametrize(
    "piece",
    [
        "image_index=",
        "image_index=0 text [1, 2, 3, 4]\n",
        "image_index=0 table [1, 2, 3, 4]\n<fcel>`\n",
        f"\n image_index=0 {'x' * 40} [{' ' * 50}",
        "\n",
        f"image_index=0 text [{'9' * 20}, 1, 2, 3]\n",
    ],
)
def test_the_time_grows_with_the_length_of_an_answer_and_no_faster(piece):
    start = time.process_time()
    with contextlib.suppress(AnswerError):
        to_markdown(parse_layout(piece * (50_000 // len(piece)), SIZES))
    assert time.process_time() - start < 3
