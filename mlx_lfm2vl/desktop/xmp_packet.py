"""XMP packets: what they say, where in the bytes they say it, and how that is changed.

A packet is changed by replacing only the bytes of the properties that change. Everything else
keeps every byte: other properties, prefixes, comments, processing instructions, white space.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from ..errors import InputError

MAX_BYTES = 2**26  # of a packet; masks painted in Lightroom take some megabytes
MAX_DEPTH = 100

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
XML = "http://www.w3.org/XML/1998/namespace"
TITLE, DESCRIPTION, SUBJECT = f"{DC} title", f"{DC} description", f"{DC} subject"

EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    f' <rdf:RDF xmlns:rdf="{RDF}">\n'
    '  <rdf:Description rdf:about="">\n'
    "  </rdf:Description>\n"
    " </rdf:RDF>\n"
    "</x:xmpmeta>\n"
    '<?xpacket end="w"?>\n'
).encode()

# What XML 1.0 cannot hold, not even escaped.
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


ATTRIBUTE = re.compile(rb"\s+([^\s=]+)\s*=\s*(?:\"[^\"]*\"|'[^']*')")
TAG = re.compile(rb"<(?:[^>\"']|\"[^\"]*\"|'[^']*')*>")  # a value may hold `>`


class Span(NamedTuple):
    """Bytes from `start` up to `end`."""

    start: int
    end: int


Edit = tuple[Span, str]  # what is replaced, and by what


@dataclass
class Value:
    """One text of a property.

    Attributes:
        text: the text.
        language: such as `x-default`; empty if the text has none.
        inside: of the element of the text, between its tags; None for an attribute and for `<a/>`.
    """

    text: str = ""
    language: str = ""
    inside: Span | None = None


@dataclass
class Property:
    """A property of the picture, such as its title.

    Attributes:
        span: of the whole element, or of the attribute with the space before it.
        is_attribute: whether it is written as an attribute.
        values: its texts; one for each `rdf:li`, or the one of a plain property.
        list_end: where another `rdf:li` can be put in; None if there is no list with an end tag.
    """

    span: Span
    is_attribute: bool = False
    values: list[Value] = field(default_factory=list)
    list_end: int | None = None

    @property
    def texts(self) -> list[str]:
        """The texts that are not blank."""
        return [value.text.strip() for value in self.values if value.text.strip()]


@dataclass
class Packet:
    """What a packet says.

    Attributes:
        data: its bytes.
        properties: by "namespace name", such as `TITLE`.
        place: where another property can be put in.
        about: the picture's name in the packet, nearly always empty.
        is_wrapped: whether a property at `place` needs an `rdf:Description` around it.
        prefixes: what our elements declare: nothing if the packet calls RDF `rdf`, as most do.
    """

    data: bytes
    properties: dict[str, Property]
    place: int
    about: str
    is_wrapped: bool
    prefixes: str


def read_packet(data: bytes, name: str) -> Packet:
    """Find the properties of a packet. The work is linear in its size, and bounded.

    Args:
        data: a packet in UTF-8, as every program writes sidecars.
        name: of the file, for messages.

    Raises:
        InputError: it is no XMP, is in another encoding, or declares types or entities, which XMP
            has no use for and attacks do.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} has more than {MAX_BYTES} bytes, the limit")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise InputError(f"{name} is in UTF-16 or UTF-32, expected UTF-8")
    reader = _Reader(data, name)
    try:
        reader.parser.Parse(data, True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise InputError(f"{name} is no XMP that can be read: {error}") from None
    return reader.packet()


def changed_packet(
    packet: Packet, alternatives: Mapping[str, str], lists: Mapping[str, Sequence[str]]
) -> bytes:
    """Return a packet's bytes with texts put in.

    Args:
        packet: what `read_packet` returned.
        alternatives: the new text in the default language of a property, which other languages
            keep theirs of.
        lists: what to add to a property that is a list.
    """
    edits: list[Edit] = []
    added = ""
    for name, text in alternatives.items():
        edit, element = _alternative(packet, name, text)
        edits += edit
        added += element
    for name, items in lists.items():
        edit, element = _longer_list(packet, name, items)
        edits += edit
        added += element
    if added:
        edits.append((Span(packet.place, packet.place), _placed(packet, added)))
    data = packet.data
    for span, text in sorted(edits, reverse=True):
        data = data[: span.start] + text.encode() + data[span.end :]
    return data


def _placed(packet: Packet, elements: str) -> str:
    if not packet.is_wrapped:
        return elements
    about = _escaped(packet.about).replace('"', "&quot;")
    start = f'<rdf:Description{packet.prefixes} rdf:about="{about}">'
    return f"{start}\n{elements}</rdf:Description>\n"


def _alternative(packet: Packet, name: str, text: str) -> tuple[list[Edit], str]:
    """Return the edits that change a text, and the element to put in if there is none."""
    old, element = packet.properties.get(name), _element(packet, name, "Alt", [text])
    if old is None:
        return [], element
    if old.is_attribute:
        return [(old.span, "")], element
    if old.list_end is None:
        return [(old.span, element.strip())], ""
    default = [value for value in old.values if value.language == "x-default"]
    value = next(iter(default or old.values), Value())
    if value.inside is not None and value.language in ("x-default", ""):
        return [(value.inside, _escaped(text))], ""
    if default:
        return [(old.span, element.strip())], ""
    return [(Span(old.list_end, old.list_end), _items(packet, "Alt", [text]))], ""


def _longer_list(packet: Packet, name: str, items: Sequence[str]) -> tuple[list[Edit], str]:
    """Return the edits that add items to a list, and the element to put in if there is none."""
    old = packet.properties.get(name)
    if old is None:
        return [], _element(packet, name, "Bag", items)
    if old.list_end is not None:
        return [(Span(old.list_end, old.list_end), _items(packet, "Bag", items))], ""
    element = _element(packet, name, "Bag", [*old.texts, *items])
    if old.is_attribute:
        return [(old.span, "")], element
    return [(old.span, element.strip())], ""


def _element(packet: Packet, name: str, kind: str, texts: Sequence[str]) -> str:
    """Write a property. It declares its own prefix, so it can stand in any packet."""
    local = name.partition(" ")[2]
    return (
        f'   <dc:{local} xmlns:dc="{DC}"><rdf:{kind}{packet.prefixes}>'
        f"{_items(packet, kind, texts)}</rdf:{kind}></dc:{local}>\n"
    )


def _items(packet: Packet, kind: str, texts: Sequence[str]) -> str:
    language = ' xml:lang="x-default"' if kind == "Alt" else ""
    start = f"<rdf:li{packet.prefixes}{language}>"
    return "".join(f"{start}{_escaped(text)}</rdf:li>" for text in texts)


def _escaped(text: str) -> str:
    """Return a text as XML holds it; what it cannot hold is left out."""
    text = NOT_XML.sub("", text)
    # A bare carriage return would be read back as a line feed.
    for letter, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\r", "&#13;")):
        text = text.replace(letter, entity)
    return text


class _Reader:
    """Collects properties while expat walks through a packet."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.properties: dict[str, Property] = {}
        self.about: str | None = None
        self.prefixes = ""
        self.rdf_end: int | None = None
        self.description_end: int | None = None
        self._path: list[str] = []
        self._starts: list[int] = []  # where the start tags of the path end
        self._property: Property | None = None
        self._name = ""
        self._value: Value | None = None
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.namespace_prefixes = True
        self.parser.ordered_attributes = True
        self.parser.buffer_text = True
        self.parser.XmlDeclHandler = self._declared
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text

    def packet(self) -> Packet:
        """Return what was found.

        Raises:
            InputError: there is no place for properties.
        """
        place = self.description_end if self.description_end is not None else self.rdf_end
        if place is None:
            raise InputError(f"{self.name} is no XMP: it has no <rdf:RDF> with an end")
        is_wrapped = self.description_end is None
        about = self.about or ""
        return Packet(self.data, self.properties, place, about, is_wrapped, self.prefixes)

    def _declared(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding and encoding.lower() not in ("utf-8", "utf8", "us-ascii"):
            raise InputError(f"{self.name} is in {encoding}, expected UTF-8")

    def _doctype(self, *_: object) -> None:
        raise InputError(f"{self.name} declares its own types or entities, which XMP never does")

    def _start(self, tag: str, attributes: list[str]) -> None:
        at = self.parser.CurrentByteIndex
        if len(self._path) == MAX_DEPTH:
            raise InputError(f"{self.name} is no XMP: it is more than {MAX_DEPTH} elements deep")
        kind, end = _plain(tag), _tag_end(self.data, at)
        pairs = dict(zip(map(_plain, attributes[::2]), attributes[1::2], strict=True))
        if kind == f"{RDF} RDF":
            self.prefixes = "" if tag.endswith(" rdf") else f' xmlns:rdf="{RDF}"'
        elif self._is_description(kind):
            self._start_description(at, end, attributes, pairs)
        elif self._in_description():
            self._property, self._name = Property(Span(at, end)), kind
            self._value = Value(inside=self._inside(end))
        elif self._property is not None and kind == f"{RDF} li" and self._depth() == 2:
            language = pairs.get(f"{XML} lang", "")
            self._value = Value(language=language, inside=self._inside(end))
        elif self._property is not None and self._depth() == 1:
            self._value = None  # a list, or a structure, whose white space is no text
        self._path.append(kind)
        self._starts.append(end)

    def _start_description(
        self, at: int, end: int, attributes: list[str], pairs: dict[str, str]
    ) -> None:
        about = pairs.get(f"{RDF} about", "")
        self.about = about if self.about is None else self.about
        spans = {
            found[1].decode(): Span(at + found.start(), at + found.end())
            for found in ATTRIBUTE.finditer(self.data[at:end])
        }
        for full, text in zip(attributes[::2], attributes[1::2], strict=True):
            uri, *rest = full.split(" ")
            if uri in (RDF, XML) or len(rest) != 2:
                continue
            span = spans[f"{rest[1]}:{rest[0]}"]
            self.properties.setdefault(_plain(full), Property(span, True, [Value(text)]))

    def _text(self, text: str) -> None:
        if self._value is not None:
            self._value.text += text

    def _end(self, _tag: str) -> None:
        at, kind = self.parser.CurrentByteIndex, self._path.pop()
        start = self._starts.pop()
        is_open = self.data[start - 2 : start] != b"/>"
        if kind == f"{RDF} RDF" and is_open and self.rdf_end is None:
            self.rdf_end = at
        elif self._is_description(kind) and is_open and self.description_end is None:
            self.description_end = at
        if self._property is None:
            return
        if self._in_description():
            self._end_property(at, start, is_open)
        elif kind == f"{RDF} li" and self._depth() == 2 and self._value is not None:
            self._end_value(at)
            self._property.values.append(self._value)
            self._value = None
        elif self._depth() == 1 and kind in (f"{RDF} Bag", f"{RDF} Seq", f"{RDF} Alt") and is_open:
            self._property.list_end = at

    def _end_property(self, at: int, start: int, is_open: bool) -> None:
        assert self._property is not None
        if self._value is not None and not self._property.values:
            self._end_value(at)
            self._property.values.append(self._value)
        end = self.data.index(b">", at) + 1 if is_open else start
        self._property.span = Span(self._property.span.start, end)
        self.properties.setdefault(self._name, self._property)
        self._property = self._value = None

    def _end_value(self, at: int) -> None:
        assert self._value is not None
        if self._value.inside is not None:
            self._value.inside = Span(self._value.inside.start, at)

    def _inside(self, end: int) -> Span | None:
        """The start of what is between the tags, unless the element is only `<a/>`."""
        return None if self.data[end - 2 : end] == b"/>" else Span(end, end)

    def _is_description(self, kind: str) -> bool:
        return kind == f"{RDF} Description" and self._path[-1:] == [f"{RDF} RDF"]

    def _in_description(self) -> bool:
        return self._path[-2:] == [f"{RDF} RDF", f"{RDF} Description"]

    def _depth(self) -> int:
        """How many elements of the path are in the description: the property itself is one."""
        return len(self._path) - self._path.index(f"{RDF} RDF") - 2


def _plain(name: str) -> str:
    """Return "namespace name" of a name that expat gives with its prefix."""
    return " ".join(name.split(" ")[:2])


def _tag_end(data: bytes, at: int) -> int:
    """Return where the start tag that begins at a byte ends."""
    found = TAG.match(data, at)
    if found is None:
        raise ValueError("a tag does not end")
    return found.end()
