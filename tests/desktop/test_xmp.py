"""XMP sidecars: what is put in is read by others, and what was there keeps every byte."""

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from mlx_lfm2vl.desktop import xmp, xmp_packet
from mlx_lfm2vl.desktop.texts import Texts, texts_of
from mlx_lfm2vl.desktop.xmp import merged, write_xmp
from mlx_lfm2vl.desktop.xmp_packet import EMPTY, read_packet
from mlx_lfm2vl.errors import InputError

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
DC = "{http://purl.org/dc/elements/1.1/}"
TEXTS = Texts("Zwei Äpfel", 'A "red" & a <green> apple ]]>\nin the sun', ("apple", "Sonne", "東京"))
LIGHTROOM = """\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0">
 <!-- made > by hand -->
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about='uuid:1&amp;2'
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:d="http://purl.org/dc/elements/1.1/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
   xmp:Rating="3" crs:Note=' d:title="no title" &gt; 1'
   crs:Exposure2012="+0.35">
   <d:subject>
    <rdf:Bag>
     <rdf:li>Anna</rdf:li>
     <rdf:li>APPLE</rdf:li>
    </rdf:Bag>
   </d:subject>
   <d:description><rdf:Alt>
     <rdf:li xml:lang="x-default">my own words</rdf:li>
     <rdf:li xml:lang="de-DE">meine Worte</rdf:li>
   </rdf:Alt></d:description>
   <crs:Look><rdf:Description crs:Name="Color"><crs:Group/></rdf:Description></crs:Look>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def parsed(data: bytes) -> dict[str, list[str]]:
    """The properties as another XML library reads them."""
    found = {}
    for description in ET.fromstring(data).iter(f"{RDF}Description"):
        for name, text in description.attrib.items():
            found.setdefault(name, []).append(text)
        for element in description:
            texts = [li.text or "" for li in element.iter(f"{RDF}li")]
            found.setdefault(element.tag, []).extend(texts or [element.text or ""])
    return found


def test_a_new_sidecar_says_what_was_written():
    found = parsed(merged(EMPTY, "new", TEXTS))
    assert found[f"{DC}title"] == [TEXTS.title]
    assert found[f"{DC}description"] == [TEXTS.description]
    assert found[f"{DC}subject"] == list(TEXTS.keywords)


def test_exiftool_reads_a_new_and_a_merged_sidecar(tmp_path):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    (tmp_path / "new.xmp").write_bytes(merged(EMPTY, "new", TEXTS))
    (tmp_path / "old.xmp").write_bytes(merged(LIGHTROOM.encode(), "old", TEXTS, replace=True))
    command = ["exiftool", "-j", "-G0", "-charset", "UTF8", "-a", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, check=True)
    by_name = {Path(row["SourceFile"]).name: row for row in json.loads(run.stdout)}
    for row in by_name.values():
        assert row["XMP:Title"] == TEXTS.title
        assert row["XMP:Description"] == TEXTS.description
        assert "ExifTool:Warning" not in row
    assert by_name["new.xmp"]["XMP:Subject"] == list(TEXTS.keywords)
    old = by_name["old.xmp"]
    assert old["XMP:Subject"] == ["Anna", "APPLE", "Sonne", "東京"]
    assert old["XMP:Description-de-DE"] == "meine Worte"
    assert (old["XMP:Rating"], old["XMP:LookName"]) == (3, "Color")


def test_what_a_sidecar_says_already_keeps_every_byte():
    new = merged(LIGHTROOM.encode(), "old", TEXTS)
    text = new.decode().replace("<rdf:li>Sonne</rdf:li><rdf:li>東京</rdf:li>", "")
    assert re.sub("   <dc:title.*</dc:title>\n", "", text) == LIGHTROOM
    found = parsed(new)
    assert found[f"{DC}subject"] == ["Anna", "APPLE", "Sonne", "東京"]
    assert found[f"{DC}description"] == ["my own words", "meine Worte"]
    assert found[f"{DC}title"] == [TEXTS.title]
    assert merged(new, "again", TEXTS) == new


def test_a_description_is_replaced_on_request_in_its_own_language_only():
    found = parsed(merged(LIGHTROOM.encode(), "old", TEXTS, replace=True))
    assert found[f"{DC}description"] == [TEXTS.description, "meine Worte"]


@pytest.mark.parametrize(
    "inner",
    [
        '<rdf:Description rdf:about="" xmlns:q="{dc}" q:description = "old" q:subject="one"/>',
        "<rdf:Description><q:description xmlns:q='{dc}'>old</q:description>"
        "<q:subject xmlns:q='{dc}'>one</q:subject></rdf:Description>",
        "<rdf:Description><q:subject xmlns:q='{dc}'><rdf:Seq><rdf:li>one</rdf:li></rdf:Seq>"
        "</q:subject><q:description xmlns:q='{dc}'><rdf:Alt><rdf:li>old</rdf:li></rdf:Alt>"
        "</q:description></rdf:Description>",
        "<rdf:Description xmlns='{dc}'><subject><rdf:Bag><rdf:li>one</rdf:li><rdf:li/></rdf:Bag>"
        "</subject><description><rdf:Alt><rdf:li xml:lang='x-default'>old</rdf:li></rdf:Alt>"
        "</description></rdf:Description>",
    ],
)
def test_every_form_of_a_property_is_merged(inner):
    packet = "<r:RDF xmlns:r='{rdf}'>" if "Seq" in inner else "<rdf:RDF xmlns:rdf='{rdf}'>"
    inner = inner.replace("rdf:", "r:") if "Seq" in inner else inner
    packet += inner + ("</r:RDF>" if "Seq" in inner else "</rdf:RDF>")
    data = packet.replace("{dc}", DC[1:-1]).replace("{rdf}", RDF[1:-1]).encode()
    kept, replaced = (parsed(merged(data, "old", TEXTS, replace=flag)) for flag in (False, True))
    assert kept[f"{DC}description"] == ["old"]
    assert replaced[f"{DC}description"] == [TEXTS.description]
    for found in (kept, replaced):
        assert [word for word in found[f"{DC}subject"] if word] == ["one", *TEXTS.keywords]
        assert found[f"{DC}title"] == [TEXTS.title]


def test_what_xml_cannot_hold_is_left_out():
    found = parsed(merged(EMPTY, "new", Texts("a\0b", "c\ud800\x1b[31md", ("\x07", "e\x01"))))
    assert found[f"{DC}title"] == ["ab"]
    assert found[f"{DC}description"] == ["c[31md"]
    assert found[f"{DC}subject"] == ["e"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares its own types or entities"),
        (b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "declares its own types or entities"),
        (b"<a>" * 200, "more than 100 elements deep"),
        (b"", "no XMP that can be read"),
        (b"<a/>", "has no <rdf:RDF>"),
        (LIGHTROOM[:900].encode(), "no XMP that can be read"),
        (LIGHTROOM.encode("utf-16"), "UTF-16 or UTF-32, expected UTF-8"),
        (b"<?xml version='1.0' encoding='latin-1'?><a/>", "in latin-1, expected UTF-8"),
    ],
)
def test_what_is_no_xmp_is_refused_and_unchanged(data, message, tmp_path):
    photo, sidecar = tmp_path / "a.jpg", tmp_path / "a.xmp"
    photo.touch()
    sidecar.write_bytes(data)
    with pytest.raises(InputError, match=message):
        write_xmp(photo, TEXTS)
    assert sidecar.read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "a.xmp"]


def test_a_packet_over_the_limit_is_refused_and_one_at_the_limit_is_read(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.xmp").write_bytes(EMPTY)
    for module in (xmp, xmp_packet):
        monkeypatch.setattr(module, "MAX_BYTES", len(EMPTY))
    assert write_xmp(tmp_path / "a.jpg", Texts()) == ([], False)
    (tmp_path / "a.xmp").write_bytes(EMPTY + b"\n")
    with pytest.raises(InputError, match=f"more than {len(EMPTY)} bytes, the limit"):
        write_xmp(tmp_path / "a.jpg", Texts())


def test_a_packet_that_does_not_say_what_was_put_in_is_refused():
    twice = "<rdf:Description d:title='one'><d:title>two</d:title></rdf:Description>"
    data = f"<rdf:RDF xmlns:rdf='{RDF[1:-1]}' xmlns:d='{DC[1:-1]}'>{twice}</rdf:RDF>".encode()
    with pytest.raises(InputError, match="old is XMP of an unusual form"):
        merged(data, "old", TEXTS, replace=True)


@pytest.mark.parametrize(
    ("files", "whole_name", "changed"),
    [
        (["a.jpg"], False, ["a.xmp"]),
        (["a.jpg"], True, ["a.jpg.xmp"]),
        (["a.jpg", "a.jpg.xmp"], False, ["a.jpg.xmp"]),
        (["a.jpg", "A.XMP"], True, ["A.XMP"]),
        (["a.jpg", "a.xmp", "a.jpg.xmp"], False, ["a.jpg.xmp", "a.xmp"]),
        # a.xmp is that of the raw photo
        (["a.jpg", "a.CR2", "a.xmp"], False, ["a.jpg.xmp"]),
    ],
)
def test_the_sidecar_of_either_name_is_found(files, whole_name, changed, tmp_path):
    for name in files:
        (tmp_path / name).write_bytes(EMPTY)
    written = write_xmp(tmp_path / "a.jpg", TEXTS, whole_name=whole_name)
    assert ([path.name for path in written.changed], written.has_own) == (changed, False)
    assert write_xmp(tmp_path / "a.jpg", TEXTS, whole_name=whole_name) == ([], False)
    assert write_xmp(tmp_path / "a.jpg", Texts(), whole_name=whole_name) == ([], False)
    other = Texts(TEXTS.title, "other words")
    assert write_xmp(tmp_path / "a.jpg", other, whole_name=whole_name) == ([], True)


def test_a_linked_sidecar_is_written_where_it_is(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "kept").mkdir()
    target = tmp_path / "kept" / "a.xmp"
    target.write_bytes(EMPTY)
    target.chmod(0o640)
    (tmp_path / "a.xmp").symlink_to(target)
    write_xmp(tmp_path / "a.jpg", TEXTS)
    assert (tmp_path / "a.xmp").is_symlink()
    assert read_packet(target.read_bytes(), "a").properties
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("record", "texts"),
    [
        ({"caption": " A cat. ", "title": "Cat"}, Texts("Cat", "A cat.")),
        ({"keywords": ["cat", "Cat", " grass  green"]}, Texts("", "", ("cat", "grass green"))),
        ({"keywords": "cat, grass", "caption": None}, Texts("", "", ("cat", "grass"))),
        ({"text": "TOTAL 12.00"}, Texts("", "TOTAL 12.00")),
        ({"values": {"title": "Bill", "total": 3}}, Texts("Bill")),
        ({"type": "choice", "choice": "receipt"}, Texts("", "", ("receipt",))),
        ({"boxes": [{"label": "cat"}, {"label": "Cat"}, {}]}, Texts("", "", ("cat",))),
        ({"boxes": None, "text": 3, "x": 1}, Texts()),
    ],
)
def test_texts_are_told_by_the_names_of_fields(record, texts):
    assert texts_of(record) == texts
