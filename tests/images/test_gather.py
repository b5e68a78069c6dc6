"""Pictures that are named by paths, patterns, folders, lists, addresses and stdin."""

import io
import os
import tracemalloc
from pathlib import Path

import pytest
from pictures import make_picture

from mlx_lfm2vl.checkpoint.find import DEMO_FOLDER
from mlx_lfm2vl.errors import InputError
from mlx_lfm2vl.images.gather import gather
from mlx_lfm2vl.images.limits import ImageLimits
from mlx_lfm2vl.images.name_list import MAX_NAME
from mlx_lfm2vl.images.source import open_image

PICTURES = ("a.png", "pics/2.jpg", "pics/10.PNG", "pics/day/3.png", "pics/day/evening/4.jpg")

OTHERS = ("pics/notes.txt", "pics/.hidden.png", "pics/._2.jpg", "pics/.git/5.png")


@pytest.fixture(autouse=True)
def desk(tmp_path, monkeypatch) -> Path:
    """The current folder, with empty files."""
    monkeypatch.chdir(tmp_path)
    for name in (*PICTURES, *OTHERS):
        add(name)
    return tmp_path


def add(name: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).touch()


def names(*words: str, **options) -> list[str]:
    return [image.name for image in gather(words, **options)]


def why(*words: str, **options) -> str:
    """Why the only picture cannot be opened."""
    (image,) = gather(words, **options)
    with pytest.raises(InputError) as error:
        open_image(image.source, ImageLimits())
    return str(error.value)


def test_pictures_come_in_the_order_of_their_names():
    assert names("pics/2.jpg", "a.png", "pics/2.jpg") == ["pics/2.jpg", "a.png", "pics/2.jpg"]
    (image,) = gather(["a.png"])
    assert (image.path, image.source) == (Path("a.png"), Path("a.png"))


def test_a_folder_stands_for_its_images_sorted_by_name():
    assert names("pics") == ["pics/10.PNG", "pics/2.jpg"]
    assert names(".", "a.png") == ["a.png", "a.png"]


def test_a_folder_stands_for_its_pdfs_too():
    add("pics/11.Pdf")
    assert names("pics") == ["pics/10.PNG", "pics/11.Pdf", "pics/2.jpg"]
    assert names("p*", recursive=True)[:3] == ["pics/10.PNG", "pics/11.Pdf", "pics/2.jpg"]


def test_recursive_enters_the_folders_after_the_images_beside_them():
    below = ["pics/day/3.png", "pics/day/evening/4.jpg"]
    assert names("pics", recursive=True) == ["pics/10.PNG", "pics/2.jpg", *below]
    assert names("p*", recursive=True) == ["pics/10.PNG", "pics/2.jpg", *below]


def test_circles_of_links_end_and_a_folder_is_entered_once(desk):
    Path("pics/day/back").symlink_to(desk / "pics")
    Path("pics/again").symlink_to(desk / "pics/day")
    Path("pics/itself.png").symlink_to("itself.png")
    found = names("pics", recursive=True)
    assert len(found) == len({Path(name).resolve() for name in found}) == 4
    assert len(names("pics/**/*.png")) == 1  # and 10.PNG is no *.png


def test_packages_of_the_mac_are_named_and_not_entered(caplog):
    add("pics/Photos Library.photoslibrary/originals/A/1.jpg")
    assert len(names("pics", recursive=True)) == 4
    assert "pics/Photos Library.photoslibrary belongs to another program" in caplog.text
    library = "pics/Photos Library.photoslibrary"
    assert "name a folder inside it" in why(library, recursive=True)
    assert names(f"{library}/originals", recursive=True) == [f"{library}/originals/A/1.jpg"]


def test_the_videos_of_a_folder_are_counted(caplog):
    for name in ("b.MOV", "c.mp4", ".hidden.mp4"):
        add(f"pics/{name}")
    assert len(names("pics")) == 2
    assert "pics: videos are left out (2); name them, with --frames" in caplog.text


def test_images_that_are_in_icloud_only_are_counted(caplog):
    add("pics/.IMG_1.HEIC.icloud")
    add("pics/.notes.txt.icloud")
    assert len(names("pics")) == 2
    assert "pics: 1 image is only in iCloud and left out; download first" in caplog.text


def test_a_folder_without_images_says_where_they_may_be():
    add("empty/notes.txt")
    assert why("empty") == "there are no images in empty"
    add("empty/below/1.png")
    assert why("empty") == "there are no images in empty; --recursive enters the folders in it"
    assert names("empty", recursive=True) == ["empty/below/1.png"]


def test_a_folder_that_cannot_be_read_is_one_error_among_the_images(monkeypatch):
    scandir = os.scandir

    def refuse(folder):
        if str(folder).endswith("day"):
            raise PermissionError(1, "Operation not permitted")
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuse)
    *_, last = gather(["pics"], recursive=True)
    assert last.name == "pics/day"
    with pytest.raises(InputError, match="pics/day cannot be read: Operation not permitted"):
        open_image(last.source, ImageLimits())


def test_patterns_are_expanded_if_no_file_has_that_name(monkeypatch, desk):
    assert names("pics/*.[Pj]*") == ["pics/10.PNG", "pics/2.jpg"]
    assert names("pics/**/*.jpg") == ["pics/2.jpg", "pics/day/evening/4.jpg"]
    assert names(f"{desk}/**/3.*") == [f"{desk}/pics/day/3.png"]
    assert set(names("pics/**", recursive=True)) == {*PICTURES[1:], "pics/notes.txt"}
    monkeypatch.setenv("HOME", str(desk / "pics"))
    assert names("~/*.jpg") == [f"{desk}/pics/2.jpg"]
    add("IMG[1].png")
    add("IMG1.png")
    assert names("IMG[1].png") == ["IMG[1].png"]
    assert why("none*.png") == "'none*.png' does not exist"
    assert why("pic*").startswith(
        "only folders match 'pic*'; --recursive enters them, pic*/* names"
    )


def test_a_file_called_like_something_else_comes_first(monkeypatch, desk):
    monkeypatch.setenv("HOME", str(desk / "pics"))
    assert [image.path for image in gather(["~/2.jpg", "demo"])] == [desk / "pics/2.jpg", None]
    add("~/2.jpg")
    add("demo")
    assert [image.path for image in gather(["~/2.jpg", "demo"])] == [Path("~/2.jpg"), Path("demo")]


def test_demo_is_the_built_in_picture():
    (image,) = gather(["demo"])
    assert (image.name, image.source) == ("demo", str(DEMO_FOLDER / "example.png"))


def test_addresses_wait_for_their_turn_and_for_permission():
    assert "--allow-url" in why("https://example.com/a.png?b=[1]")
    web, data, file = gather(
        ["https://a.b/c*.png", "data:image/png;base64,AA", "file:///tmp/a%20b"]
    )
    assert (web.name, web.path) == ("https://a.b/c*.png", None)
    assert (data.name, data.source) == ("data URI", "data:image/png;base64,AA")
    assert file.path == Path("/tmp/a b")


def test_an_image_is_read_from_stdin():
    data = io.BytesIO()
    make_picture(9, 9, 1).save(data, "png")
    (image,) = gather(["-"], stdin=io.BytesIO(data.getvalue()))
    assert (image.name, image.path) == ("-", None)
    assert open_image(image.source, ImageLimits()).size == (9, 9)
    assert "at most 5 are read" in str(error_of(image.source, ImageLimits(max_bytes=5)))
    with pytest.raises(InputError, match="standard input, which cannot be read here"):
        list(gather(["-"]))


def error_of(source, limits: ImageLimits) -> InputError:
    with pytest.raises(InputError) as error:
        open_image(source, limits)
    return error.value


@pytest.mark.parametrize(
    "text",
    [
        b"a.png\npics/2.jpg\n",
        b"\xef\xbb\xbfa.png\r\n\r\npics/2.jpg",
        b"a.png\0pics/2.jpg\0",
    ],
)
def test_a_list_has_a_name_a_line_or_one_before_each_nul(text):
    Path("list").write_bytes(text)
    assert names("pics/day", files_from="list") == ["pics/day/3.png", "a.png", "pics/2.jpg"]
    assert names(files_from="-", stdin=io.BytesIO(text)) == ["a.png", "pics/2.jpg"]


def test_names_in_a_list_are_taken_as_they_are(monkeypatch, desk):
    monkeypatch.setenv("HOME", str(desk / "pics"))
    Path("list").write_bytes(b" a.png\n#b.png\n*.png\ndemo\n~/2.jpg\n\xff.png\n-\n")
    found = names(files_from="list")
    assert found == [" a.png", "#b.png", "*.png", "demo", "~/2.jpg", "\udcff.png", "-"]
    paths = [image.path for image in gather([], files_from="list")]
    assert paths[4] == desk / "pics/2.jpg"
    Path("list").write_bytes(b"two\nlines.png\0a.png\0")
    assert names(files_from="list") == ["two\nlines.png", "a.png"]
    Path("list").write_text("pics")
    assert why(files_from="list") == "'pics' is a folder, expected an image file"


def test_a_missing_file_of_a_list_is_one_error_among_the_images():
    Path("list").write_text("a.png\ngone.png\npics/2.jpg")
    _, gone, _ = gather([], files_from="list")
    assert str(error_of(gone.source, ImageLimits())) == "'gone.png' does not exist"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "list holds no names"),
        (b"\n\r\n", "list holds no names"),
        ("a.png\n".encode("utf-16"), "list is UTF-16; save it as UTF-8"),
        (b"a" * (MAX_NAME + 1), "a name of over 32768 bytes"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "list is no text, expected one name a line"),
    ],
)
def test_a_list_that_is_none_is_refused(data, message):
    Path("list").write_bytes(data)
    with pytest.raises(InputError, match=message):
        names(files_from="list")


def test_a_list_that_is_missing_is_refused_before_any_picture_is_opened():
    for name, message in [("gone", "'gone' does not exist"), ("pics", "'pics' is a folder")]:
        with pytest.raises(InputError, match=message):
            gather(["a.png"], files_from=name)
    with pytest.raises(InputError, match="standard input is closed"):
        gather(["a.png"], files_from="-")


def test_a_list_that_never_ends_is_cut_off(monkeypatch):
    monkeypatch.setattr("mlx_lfm2vl.images.name_list.MAX_LIST", 50)
    Path("list").write_text("a.png\n" * 9)
    with pytest.raises(InputError, match="list has over 0 MiB; divide it"):
        names(files_from="list")


def test_a_name_of_a_list_is_there_before_the_next_is_written():
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin, open(writing, "wb", buffering=0) as writer:
        found = gather([], files_from="-", stdin=stdin)
        writer.write(b"a.png\nb.p")
        assert next(found).name == "a.png"
        writer.write(b"ng\n")
        assert next(found).name == "b.png"


def test_memory_does_not_grow_with_the_number_of_names():
    stdin = io.BytesIO(b"".join(b"photos/%06d.jpg\n" % i for i in range(10_000)))
    found = gather([], files_from="-", stdin=stdin)
    next(found)
    tracemalloc.start()
    count = sum(1 for _ in found)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 9_999
    assert peak < 3 * 2**20  # kept, they would take 5 MB
