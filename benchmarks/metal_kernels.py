"""Check that MLX's wheels for macOS contain the Metal kernels that this package relies on.

usage: python benchmarks/metal_kernels.py WHEEL...

    pip download --platform macosx_14_0_arm64 --only-binary=:all: --no-deps mlx-metal==0.32.4
    pip download --platform macosx_26_0_arm64 --only-binary=:all: --no-deps mlx-metal==0.32.4

Only reads the wheels as files, so it runs on any system. Exits with 1 if a kernel is missing.
"""

import re
import struct
import sys
import zipfile
from pathlib import Path

# Purpose -> a pattern that at least one kernel must match, for each of the two 16-bit types.
EXPECTED = {
    "tower attention, head size 64": "steel_attention_{}_bq\\d+_bk\\d+_bd64_",
    "tower attention, head size 72": "steel_attention_{}_bq\\d+_bk\\d+_bd72_",
    "decode attention, head size 64": "^sdpa_vector_{}_64_64",
    "decode attention over many keys": "^sdpa_vector_2pass_1_{}_64_64",
    "RMSNorm": "^rms{}$",
    "LayerNorm": "^layer_norm{}$",
    "RoPE of one position": "^rope_single_{}",
    "RoPE": "^rope_{}",
    "matrix-vector product": "^gemv_{}",
    "4-bit matrix-vector product, groups of 64": "^affine_qmv_fast_{}_gs_64_b_4",
    "4-bit matrix-vector product, groups of 128": "^affine_qmv_fast_{}_gs_128_b_4",
    "8-bit matrix-vector product, groups of 64": "^affine_qmv_fast_{}_gs_64_b_8",
    "matrix product": "^steel_gemm_fused_nt_{}_{}",
    "most likely token": "^argmax_{}",
}
NAX = "_nax"  # marks kernels for the M5's matrix units, which the wheel for macOS 26 has
TYPES = {"float16": ("float16", "float16_t", "half"), "bfloat16": ("bfloat16", "bfloat16_t")}


def kernel_names(wheel: Path) -> list[str]:
    """The names in the function list of a wheel's metallib."""
    with zipfile.ZipFile(wheel) as archive:
        (library,) = (name for name in archive.namelist() if name.endswith(".metallib"))
        data = archive.read(library)
    if data[:4] != b"MTLB":
        raise ValueError(f"{wheel}: {library} is not a metallib")
    offset, size = struct.unpack_from("<QQ", data, 24)  # of the function list
    (count,) = struct.unpack_from("<I", data, offset)
    entries = data[offset : offset + size + 4]
    names = [m[1].decode() for m in re.finditer(rb"NAME..([\x20-\x7e]+)\x00", entries, re.DOTALL)]
    if len(names) != count:
        raise ValueError(f"{wheel}: found {len(names)} names, expected {count} functions")
    return sorted(names)


def missing(names: list[str]) -> list[str]:
    """The purposes and types for which there is no kernel."""
    lost = []
    for purpose, pattern in EXPECTED.items():
        for dtype, spellings in TYPES.items():
            patterns = [pattern.replace("{}", spelling) for spelling in spellings]
            if not any(re.search(p, name) for p in patterns for name in names):
                lost.append(f"{purpose}, {dtype}")
    return lost


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    failed = False
    print("| wheel | kernels | for the M5's matrix units | missing |\n|---|---|---|---|")
    for wheel in map(Path, sys.argv[1:]):
        names = kernel_names(wheel)
        lost = missing(names)
        failed |= bool(lost)
        nax = sum(NAX in name for name in names)
        print(f"| {wheel.name} | {len(names)} | {nax} | {'; '.join(lost) or 'none'} |")
    sys.exit(failed)


if __name__ == "__main__":
    main()
