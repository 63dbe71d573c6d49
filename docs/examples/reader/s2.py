"""Unpacking one block of S2 (docs/format.md, "Packs")."""


def varint(b: bytes) -> tuple[int, int]:
    n = shift = at = 0
    while True:
        n |= (b[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if b[at - 1] < 128:
            return n, at


def unpack(b: bytes, limit: int) -> bytes:
    size, at = varint(b)
    if size > limit:
        raise ValueError("unpacks to more than is allowed")
    out = bytearray()
    offset = 0
    while at < len(b):
        token = b[at]
        kind, x, at = token & 3, token >> 2, at + 1

        def number(width: int) -> int:
            nonlocal at
            at += width
            return int.from_bytes(b[at - width : at], "little")

        if kind == 0:
            length = x + 1 if x < 60 else number(x - 59) + 1
            out += b[at : at + length]
            at += length
            continue
        if kind == 1:
            near, short = (token >> 5) << 8 | number(1), x & 7
            if near:
                offset, length = near, short + 4
            else:
                length = short + 4 if short < 5 else number(short - 4) + (8, 260, 65540)[short - 5]
        else:
            length = x + 1
            offset = number(2 if kind == 2 else 4)
        if not 0 < offset <= len(out) or len(out) + length > size:
            raise ValueError("copies from outside of what is there")
        for _ in range(length):
            out.append(out[-offset])
    if len(out) != size:
        raise ValueError("another length than announced")
    return bytes(out)
