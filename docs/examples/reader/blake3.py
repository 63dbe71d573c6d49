"""BLAKE3 with 32 bytes of output: plain, and keyed.

After the specification at https://github.com/BLAKE3-team/BLAKE3-specs. Slow.
"""

from struct import pack, unpack

IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, KEYED = 1, 2, 4, 8, 16
CHUNK, BLOCK = 1024, 64
MASK = 0xFFFFFFFF
# Which words of the state each of a round's eight steps mixes.
STEPS = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip


def compression(chaining: tuple, block: bytes, counter: int, flags: int) -> tuple:
    """The first half of the compression function's output."""
    m = list(unpack("<16I", block.ljust(BLOCK, b"\0")))
    v = [*chaining, *IV[:4], counter & MASK, counter >> 32, len(block), flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(STEPS):
            va, vb, vc, vd = v[a], v[b], v[c], v[d]
            va = (va + vb + m[2 * i]) & MASK
            vd ^= va
            vd = vd >> 16 | vd << 16 & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            vb = vb >> 12 | vb << 20 & MASK
            va = (va + vb + m[2 * i + 1]) & MASK
            vd ^= va
            vd = vd >> 8 | vd << 24 & MASK
            vc = (vc + vd) & MASK
            vb ^= vc
            v[a], v[b], v[c], v[d] = va, vb >> 7 | vb << 25 & MASK, vc, vd
        m = [m[i] for i in PERMUTATION]
    return tuple(v[i] ^ v[i + 8] for i in range(8))


def chunk(key: tuple, data: bytes, counter: int, flags: int, last: int) -> tuple:
    chaining = key
    blocks = range(0, max(len(data), 1), BLOCK)
    for at in blocks:
        f = flags | (CHUNK_START if at == 0 else 0) | (CHUNK_END | last if at == blocks[-1] else 0)
        chaining = compression(chaining, data[at : at + BLOCK], counter, f)
    return chaining


def tree(key: tuple, data: bytes, counter: int, flags: int, last: int) -> tuple:
    """The chaining value of data, whose first chunk has the number counter."""
    if len(data) <= CHUNK:
        return chunk(key, data, counter, flags, last)
    chunks = (len(data) - 1) // CHUNK  # the left half has the largest power of two of chunks
    left = CHUNK << (chunks.bit_length() - 1)
    a = tree(key, data[:left], counter, flags, 0)
    b = tree(key, data[left:], counter + left // CHUNK, flags, 0)
    return compression(key, pack("<16I", *a, *b), 0, flags | PARENT | last)


def blake3(data: bytes, key: bytes | None = None) -> bytes:
    words, flags = (IV, 0) if key is None else (unpack("<8I", key), KEYED)
    return pack("<8I", *tree(words, data, 0, flags, ROOT))
