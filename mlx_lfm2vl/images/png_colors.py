"""The colors that the chunks of a PNG describe, as a profile that Little CMS reads.

Of several descriptions the first of cICP, iCCP, sRGB and gAMA with cHRM counts. Follows the PNG
specification, third edition, 4.3 and 12.13, and ITU-T H.273 for the numbers of cICP.
"""

import struct
from collections.abc import Callable, Mapping

import numpy as np

# (x, y) of red, green, blue and white.
D65 = (0.3127, 0.3290)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), D65)
PRIMARIES = {
    1: SRGB,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), D65),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), D65),
}
PQ, HLG = 16, 18  # transfer functions of high dynamic range
WHITE_NITS = 203.0  # of paper white in such pictures. Follows ITU-R BT.2408
CURVE_STEPS = 255 * 16 + 1  # so that each of 256 levels has its entry
D50 = (0.9642, 1.0, 0.8249)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
GAMMA_UNIT = 100_000
SRGB_GAMMA = 45_455  # what writers of sRGB put into gAMA
NEAR = 0.01  # of a gamma, and of a coordinate
CLIPPED = "its HDR colors were converted, and what is brighter than paper white is white"
UNKNOWN = "its color description is not supported, so its colors may be off"

Chromaticities = tuple[tuple[float, float], ...]
Curve = Callable[[np.ndarray], np.ndarray]


def color_profile(
    chunks: Mapping[bytes, bytes], embedded: bytes | None
) -> tuple[bytes | None, str | None]:
    """The profile of the colors that chunks describe, and a note.

    Args:
        chunks: bodies of the chunks cICP, sRGB, gAMA and cHRM that the file has.
        embedded: the profile in iCCP.

    Returns:
        The profile, None if the colors are those of sRGB; and what is to be said, or None.
    """
    note = None
    if len(chunks.get(b"cICP", b"")) == 4:
        primaries, transfer, matrix, is_full = chunks[b"cICP"]
        curve = _curve(transfer)
        if curve is not None and primaries in PRIMARIES and matrix == 0 and is_full == 1:
            note = CLIPPED if transfer in (PQ, HLG) else None
            if transfer == 13 and primaries == 1:
                return None, note
            return _profile(PRIMARIES[primaries], curve), note
        note = UNKNOWN
    if embedded is not None or b"sRGB" in chunks:
        return embedded, note
    return _of_gamma(chunks.get(b"gAMA", b""), chunks.get(b"cHRM", b"")), note


def _of_gamma(gamma: bytes, corners: bytes) -> bytes | None:
    exponent = struct.unpack(">I", gamma)[0] if len(gamma) == 4 else 0
    if not GAMMA_UNIT / 100 <= exponent <= GAMMA_UNIT * 100:
        return None
    chromaticities = SRGB
    if len(corners) == 32:
        numbers = [number / GAMMA_UNIT for number in struct.unpack(">8I", corners)]
        white, *colors = zip(numbers[::2], numbers[1::2], strict=True)
        chromaticities = (*colors, white)
    is_srgb_curve = abs(exponent / SRGB_GAMMA - 1) < NEAR
    if is_srgb_curve and np.abs(np.subtract(chromaticities, SRGB)).max() < NEAR:
        return None
    curve = _srgb if is_srgb_curve else _power(GAMMA_UNIT / exponent)
    return _profile(chromaticities, curve)


def _curve(transfer: int) -> Curve | None:
    """From the levels of a picture, 0 to 1, to light."""
    if transfer in (1, 6, 14, 15):
        return _bt709
    curves = {4: _power(2.2), 5: _power(2.8), 8: _power(1.0), 13: _srgb, PQ: _pq, HLG: _hlg}
    return curves.get(transfer)


def _power(exponent: float) -> Curve:
    return lambda levels: levels**exponent


def _srgb(levels: np.ndarray) -> np.ndarray:
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def _bt709(levels: np.ndarray) -> np.ndarray:
    return np.where(levels < 0.081, levels / 4.5, ((levels + 0.099) / 1.099) ** (1 / 0.45))


def _pq(levels: np.ndarray) -> np.ndarray:
    """Follows SMPTE ST 2084, whose full level is 10,000 nits."""
    root = levels ** (32 / 2523)
    light = np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)
    return np.minimum(light ** (8192 / 1305) * 10_000 / WHITE_NITS, 1)


def _hlg(levels: np.ndarray) -> np.ndarray:
    """Follows ITU-R BT.2100 for a screen of 1,000 nits, whose exponent of 1.2 is taken by color."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(levels <= 0.5, levels**2 / 3, (np.exp((levels - c) / a) + b) / 12)
    return np.minimum(scene**1.2 * 1000 / WHITE_NITS, 1)


def _profile(chromaticities: Chromaticities, curve: Curve) -> bytes | None:
    """Write an ICC profile of three primaries and one curve. Follows ICC.1:2001-04."""
    matrix = _to_d50(chromaticities)
    if matrix is None:
        return None
    levels = curve(np.linspace(0, 1, CURVE_STEPS))
    table = np.rint(np.clip(levels, 0, 1) * 65535).astype(">u2").tobytes()
    curve_tag = b"curv" + bytes(4) + struct.pack(">I", CURVE_STEPS) + table
    tags = [(b"wtpt", _xyz(D50))]
    tags += [(name, _xyz(matrix[:, i])) for i, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))]
    tags += [(name, curve_tag) for name in (b"rTRC", b"gTRC", b"bTRC")]
    at = 128 + 4 + 12 * len(tags)
    table_of_tags, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags:
        table_of_tags += name + struct.pack(">II", at + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    head = struct.pack(">I4sI", at + len(body), b"", 0x02400000) + b"mntrRGB XYZ " + bytes(12)
    head += b"acsp" + bytes(28) + struct.pack(">3i", *_fixed(D50))
    return head.ljust(128, b"\0") + table_of_tags + body


def _to_d50(chromaticities: Chromaticities) -> np.ndarray | None:
    """The (3, 3) matrix from RGB to XYZ seen under D50; None if the corners span no colors."""
    corners = np.array(chromaticities)
    if (corners[:, 1] <= 0).any():
        return None
    xyz = np.stack([corners[:, 0], corners[:, 1], 1 - corners.sum(axis=1)]) / corners[:, 1]
    if abs(np.linalg.det(xyz[:, :3])) < 1e-3:
        return None
    matrix = xyz[:, :3] * np.linalg.solve(xyz[:, :3], xyz[:, 3])
    cones = BRADFORD @ np.array(D50) / (BRADFORD @ xyz[:, 3])
    adapted = np.linalg.solve(BRADFORD, cones[:, None] * (BRADFORD @ matrix))
    return adapted if np.isfinite(adapted).all() and np.abs(adapted).max() < 100 else None


def _xyz(values: object) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *_fixed(values))


def _fixed(values: object) -> list[int]:
    return [round(float(value) * 65536) for value in np.asarray(values)]
