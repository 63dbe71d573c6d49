#!/usr/bin/python3
"""Reads a lull repository in a directory, from docs/format.md alone.

    lull_reader.py DIR                      lists restore points and disks
    lull_reader.py DIR POINT DISK FILE      restores one disk as a raw image

The passphrase is in $LULL_PASSPHRASE. Needs Debian's python3-argon2,
python3-cryptography and python3-zstandard.

An example, to be read beside the format document: everything is authenticated
and compared with its name, nothing is fast.
"""

import json
import os
import sys
from pathlib import Path
from struct import unpack_from

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hpke
import s2
from blake3 import blake3
from keyring import PREFIX, SIGNATURE, Damaged, Keys, unlock, want

WINDOW, PAGE, FANOUT = 4 << 20, 4096, 128
MAX_SEGMENT, MAX_DOCUMENT = 2 << 20, 32 << 20
SEALED_KEY = hpke.ENCAPSULATED + 32 + 16
# What comes of packs that are gone, damaged or a liar's.
UNREADABLE = (Damaged, InvalidTag, OSError, LookupError, ValueError, OverflowError, zstandard.ZstdError)


class Repository:
    def __init__(self, directory: Path, keys: Keys):
        self.directory, self.keys = directory, keys
        self.head = PREFIX + (2 if keys.version > 1 else 0)  # of packs and points: prefix and epoch
        # block name: its places, each pack, segment's offset and length, block's offset and length
        self.places: dict[bytes, list[tuple]] = {}
        self.pack_keys: dict[bytes, bytes] = {}
        self.segment: tuple = (None, b"")  # the last one that was opened
        drop, valid = self.decision()
        for path in sorted((directory / "index").iterdir()):
            name = f"index/{path.name}"
            if name not in drop and (name in valid or not path.name.startswith("m")):
                self.load_index(path)

    # -- index ------------------------------------------------------------------

    def decision(self) -> tuple[set, set]:
        """The index objects that count no more, by maintenance's newest decision, and those
        of its own that count."""
        done = max((self.directory / "marks").glob("?" * 16 + ".done"), default=None)
        if done is None:
            return set(), set()
        name, raw = f"marks/{done.name}", done.read_bytes()
        want(raw[:PREFIX] == self.keys.prefix("K"), f"{name}: not a decision")
        document = json.loads(self.keys.open_index("K", self.of_maintenance(name, raw)[PREFIX:]))
        want(document["number"] == int(done.stem, 16), f"{name}: another's number")
        return set(document["drop"] or ()), set(document["index"] or ())

    def load_index(self, path: Path) -> None:
        raw = path.read_bytes()
        if self.is_fence(f"index/{path.name}", raw):
            return  # a session that was given up may not make blocks known any more
        want(raw[:PREFIX] == self.keys.prefix("I"), f"{path}: not an index object")
        at = 0
        if self.keys.version == 1:
            want(blake3(raw).hex() == path.name, f"{path}: name does not match")
            b = self.keys.open_index("I", raw[PREFIX:])
        else:
            raw, _ = self.keys.cut_trailer("document", f"index/{path.name}", raw)
            b = self.keys.open_index("I", raw[PREFIX:])
            at = self.skip_certificates(b)
        (packs,) = unpack_from("<I", b, at)
        at += 4
        for _ in range(packs):
            pack, at = b[at : at + 32], at + 37  # the kind and the size are of no use here,
            if self.keys.version > 1:
                at += 2 + SIGNATURE  # nor is who made it: names of blocks are compared
            at = self.load_directory(pack, b, at)

    def is_fence(self, name: str, raw: bytes) -> bool:
        """Whether maintenance has put a fence there, under that very name."""
        if self.keys.version == 1 or raw[:PREFIX] != self.keys.prefix("F"):
            return False
        self.of_maintenance(name, raw)
        return True

    def of_maintenance(self, name: str, raw: bytes) -> bytes:
        """A document without its trailer, which only maintenance may have signed."""
        body, signer = self.keys.cut_trailer("document", name, raw)
        want({"maintain", "owner"} & set(signer["roles"].split(",")), f"{name}: signed by a key that may not")
        want(self.keys.counts(signer, raw), f"{name}: signed by a key that was removed")
        return body

    def skip_certificates(self, b: bytes) -> int:
        (count,) = unpack_from("<H", b)
        at = 2
        for _ in range(count):
            at += 2 + unpack_from("<H", b, at)[0]
        return at

    def load_directory(self, pack: bytes, b: bytes, at: int) -> int:
        (segments,) = unpack_from("<I", b, at)
        at, offset = at + 4, self.head + SEALED_KEY
        for _ in range(segments):
            length, blocks = unpack_from("<II", b, at)
            at, start = at + 8, 0
            for _ in range(blocks):
                size = unpack_from("<H", b, at + 32)[0] + 1
                self.places.setdefault(b[at : at + 32], []).append((pack, offset, length, start, size))
                at, start = at + 34, start + size
            offset += length
        return at

    # -- blocks -----------------------------------------------------------------

    def block(self, name: bytes, names: bytes, kind: str) -> bytes:
        """A block of data or a node, from the first of its places where it is: packs get
        damaged, and a host that was taken over lists what it likes."""
        why = "is in no pack"
        for pack, offset, length, start, size in self.places.get(name, []):
            try:
                if self.segment[0] != (pack, offset):
                    self.segment = ((pack, offset), self.open_segment(pack, offset, length, kind))
            except UNREADABLE as e:
                why = f"cannot be read: {e!r}"
                continue
            found = self.segment[1][start : start + size]
            if blake3(found, names) == name:
                return found
            why = "does not match its name"
        raise Damaged(f"block {name.hex()} {why}")

    def open_segment(self, pack: bytes, offset: int, length: int, kind: str) -> bytes:
        with open(self.directory / "packs" / pack.hex()[:2] / pack.hex(), "rb") as f:
            if pack not in self.pack_keys:
                self.pack_keys[pack] = self.pack_key(f.read(self.head), f.read(SEALED_KEY), kind)
            f.seek(offset)
            sealed = f.read(length)
        aad = self.keys.prefix(kind) + self.keys.repository
        plain = AESGCM(self.pack_keys[pack]).decrypt(bytes(8) + offset.to_bytes(4, "big"), sealed, aad)
        return unpack_segment(plain)

    def pack_key(self, head: bytes, sealed: bytes, kind: str) -> bytes:
        want(head[:PREFIX] == self.keys.prefix(kind), "not a pack of this kind")
        pairs = self.keys.meta if kind == "M" else self.keys.data
        return self.keys.open_sealed(pairs[epoch(head)], "pack", head, sealed)

    # -- restore points and maps ------------------------------------------------

    def points(self) -> dict[str, dict]:
        return {p["id"]: p for path in (self.directory / "points").glob("*/*") for p in [self.point(path)] if p}

    def point(self, path: Path) -> dict | None:
        raw = path.read_bytes()
        name = str(path.relative_to(self.directory))
        if self.is_fence(name, raw):
            return None  # a session that was given up may not commit any more
        want(raw[:PREFIX] == self.keys.prefix("P"), f"{path}: not a restore point")
        head, sealed = raw[: self.head], raw[self.head :]
        if self.keys.version > 1:
            signed, signer = self.keys.cut_trailer("point", name, raw)
            want("backup" in signer["roles"] or "owner" in signer["roles"], f"{path}: signed by a key that may not")
            if not self.keys.counts(signer, raw):
                print(f"{name}: passed over: key {signer['label']} was removed, and had not signed it by then", file=sys.stderr)
                return None
            (outline,) = unpack_from("<I", signed, self.head)
            sealed = signed[self.head + 4 + outline :]
        packed = self.keys.open_sealed(self.keys.data[epoch(head)], "point", head + name.encode(), sealed)
        return json.loads(unzstd(packed, MAX_DOCUMENT))

    def disk(self, root: dict):
        """Yields offset and content of each block of a disk."""
        if root.get("node"):
            yield from self.under(bytes.fromhex(root["node"]), root.get("depth", 0), 0, root["size"])

    def under(self, name: bytes, level: int, window: int, size: int):
        node = self.block(name, self.keys.node_names, "M")
        want(node[0] == level, "map node of another level")
        if level == 0:
            yield from self.leaf(node, window * WINDOW, size)
            return
        at = 17
        for child in range(FANOUT):
            if node[1 + child // 8] >> child % 8 & 1:
                yield from self.under(node[at : at + 32], level - 1, window + child * FANOUT ** (level - 1), size)
                at += 40

    def leaf(self, node: bytes, start: int, size: int):
        for at in range(3, len(node), 34):
            (place,) = unpack_from("<H", node, at)
            offset = start + (place & 1023) * PAGE
            length = min(((place >> 10) + 1) * PAGE, size - offset, start + WINDOW - offset)
            found = self.block(node[at + 2 : at + 34], self.keys.data_names, "D")
            want(len(found) == length, "block of another length than its place")
            yield offset, found


def epoch(head: bytes) -> int:
    return int.from_bytes(head[PREFIX:], "little") or 1


def unpack_segment(plain: bytes) -> bytes:
    method, content = plain[0], plain[1:]
    if method == 0:
        return content
    if method == 1:
        return unzstd(content, MAX_SEGMENT)
    want(method == 2, f"compression method {method}")
    return s2.unpack(content, MAX_SEGMENT)


def unzstd(packed: bytes, limit: int) -> bytes:
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    want(len(plain) <= limit, "unpacks to more than is allowed")
    return plain


def restore(repository: Repository, disk: dict, out: Path) -> None:
    with open(out, "xb") as f:
        f.truncate(disk["root"]["size"])
        for offset, content in repository.disk(disk["root"]):
            f.seek(offset)
            f.write(content)


def main(arguments: list[str]) -> None:
    if len(arguments) not in (1, 4):
        sys.exit(__doc__)
    directory = Path(arguments[0])
    keys = unlock(directory, os.environb[b"LULL_PASSPHRASE"])
    if keys is None:
        sys.exit("the passphrase opens no key file")
    repository = Repository(directory, keys)
    points = repository.points()
    if len(arguments) == 1:
        for p in sorted(points.values(), key=lambda p: p["id"]):
            for d in p["disks"]:
                print(p["id"], p["vm"], d["name"], d["root"]["size"])
        return
    _, point, name, out = arguments
    disks = {d["name"]: d for d in points[point]["disks"]}
    restore(repository, disks[name], Path(out))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Damaged as e:
        sys.exit(f"damaged: {e}")
