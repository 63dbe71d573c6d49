#!/usr/bin/python3
"""Reads a lull repository in a directory, from docs/format.md alone.

    lull_reader.py DIR                      lists restore points and disks
    lull_reader.py DIR POINT DISK FILE      restores one disk as a raw image

The passphrase is in $LULL_PASSPHRASE. Needs Debian's python3-argon2,
python3-cryptography and python3-zstandard.

An example, to be read beside the format document: everything is authenticated
and compared with its name, nothing is fast.
"""

import base64
import json
import os
import sys
from pathlib import Path
from struct import unpack_from

import zstandard
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hpke
from blake3 import blake3

WINDOW, PAGE, FANOUT = 4 << 20, 4096, 128
MAX_SEGMENT = 1 << 20
PREFIX, SALT = 8, 32
PACK_HEADER = PREFIX + hpke.ENCAPSULATED + 32 + 16
ONCE = bytes(12)  # the nonce of keys that seal one thing only


class Damaged(Exception):
    """What was read is not what the format says."""


def want(condition: bool, what: str) -> None:
    if not condition:
        raise Damaged(what)


def prefix(kind: str) -> bytes:
    return b"lull" + kind.encode() + b"\x01" + b"\0\0"


class Keys:
    """All keys of a repository, from its master secret."""

    def __init__(self, master: bytes, repository: bytes):
        self.repository = repository
        self.master = master
        self.data_names = self.derive("data names")
        self.node_names = self.derive("node names")
        self.index = self.derive("index")
        self.writers = self.derive("writers")
        self.read = hpke.PrivateKey(hpke.derived_seed(self.derive("read")))

    def derive(self, purpose: str) -> bytes:
        return hpke.hkdf(self.master, self.repository, b"lull v1 " + purpose.encode(), 32)

    def open_public(self, purpose: str, aad: bytes, sealed: bytes) -> bytes:
        info = b"lull v1 " + purpose.encode() + b" " + self.repository + self.writers
        return self.read.open(info, aad, sealed)

    def open_index(self, kind: str, sealed: bytes) -> bytes:
        key = hpke.hkdf(self.index, sealed[:SALT], b"lull v1 sealed index", 32)
        return AESGCM(key).decrypt(ONCE, sealed[SALT:], prefix(kind) + self.repository)


def unlock(directory: Path, passphrase: bytes) -> Keys:
    """Tries the passphrase on each key file."""
    config = (directory / "config").read_bytes()
    document = json.loads(config)
    want(document["lull"] == "repository" and document["version"] == 1, "config: not version 1")
    for path in (directory / "keys").iterdir():
        f = json.loads(path.read_bytes())
        want(f["config"] == blake3(config).hex(), f"{path.name}: belongs to another config")
        key = hash_secret_raw(passphrase, base64.b64decode(f["salt"]), f["time"], f["memory_kib"], f["threads"], 32, Type.ID)
        try:
            bundle = AESGCM(key).decrypt(ONCE, base64.b64decode(f["sealed"]), b"lull v1 key " + f["config"].encode())
        except InvalidTag:
            continue
        want(len(bundle) == 33 and bundle[0] == 1, f"{path.name}: a role without the master secret")
        keys = Keys(bundle[1:], bytes.fromhex(document["id"]))
        want(keys.read.public == base64.b64decode(document["public_key"]), "config: another public key")
        return keys
    sys.exit("the passphrase opens no key file")


class Repository:
    def __init__(self, directory: Path, keys: Keys):
        self.directory, self.keys = directory, keys
        self.places: dict[bytes, tuple] = {}  # block name: pack, segment's offset and length, block's offset and length
        self.pack_keys: dict[bytes, bytes] = {}
        self.segment: tuple = (None, b"")  # the last one that was opened
        for path in (directory / "index").iterdir():
            self.load_index(path)

    def load_index(self, path: Path) -> None:
        raw = path.read_bytes()
        want(blake3(raw).hex() == path.name, f"{path}: name does not match")
        want(raw[:PREFIX] == prefix("I"), f"{path}: not an index object")
        b = self.keys.open_index("I", raw[PREFIX:])
        (packs,) = unpack_from("<I", b)
        at = 4
        for _ in range(packs):
            pack, at = b[at : at + 32], at + 37  # the kind and the size are of no use here
            at = self.load_directory(pack, b, at)

    def load_directory(self, pack: bytes, b: bytes, at: int) -> int:
        (segments,) = unpack_from("<I", b, at)
        at, offset = at + 4, PACK_HEADER
        for _ in range(segments):
            length, blocks = unpack_from("<II", b, at)
            at, start = at + 8, 0
            for _ in range(blocks):
                size = unpack_from("<H", b, at + 32)[0] + 1
                self.places[b[at : at + 32]] = (pack, offset, length, start, size)
                at, start = at + 34, start + size
            offset += length
        return at

    def block(self, name: bytes, names: bytes, kind: str) -> bytes:
        """A block of data or a node, compared with its name."""
        want(name in self.places, f"block {name.hex()} is in no pack")
        pack, offset, length, start, size = self.places[name]
        if self.segment[0] != (pack, offset):
            self.segment = ((pack, offset), self.open_segment(pack, offset, length, kind))
        found = self.segment[1][start : start + size]
        want(blake3(found, names) == name, f"block {name.hex()}: name does not match")
        return found

    def open_segment(self, pack: bytes, offset: int, length: int, kind: str) -> bytes:
        with open(self.directory / "packs" / pack.hex()[:2] / pack.hex(), "rb") as f:
            if pack not in self.pack_keys:
                head = f.read(PACK_HEADER)
                want(head[:PREFIX] == prefix(kind), f"{pack.hex()}: not a pack of this kind")
                self.pack_keys[pack] = self.keys.open_public("pack", head[:PREFIX], head[PREFIX:])
            f.seek(offset)
            sealed = f.read(length)
        aad = prefix(kind) + self.keys.repository
        plain = AESGCM(self.pack_keys[pack]).decrypt(bytes(8) + offset.to_bytes(4, "big"), sealed, aad)
        return unpack_segment(plain)

    def points(self) -> dict[str, dict]:
        return {p["id"]: p for path in (self.directory / "points").glob("*/*") for p in [self.point(path)]}

    def point(self, path: Path) -> dict:
        raw = path.read_bytes()
        want(raw[:PREFIX] == prefix("P"), f"{path}: not a restore point")
        name = str(path.relative_to(self.directory)).encode()
        packed = self.keys.open_public("point", raw[:PREFIX] + name, raw[PREFIX:])
        return json.loads(unzstd(packed, 32 << 20))

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


def unpack_segment(plain: bytes) -> bytes:
    want(plain[0] in (0, 1), f"compression method {plain[0]}")
    return plain[1:] if plain[0] == 0 else unzstd(plain[1:], MAX_SEGMENT)


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
    repository = Repository(directory, unlock(directory, os.environb[b"LULL_PASSPHRASE"]))
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
    main(sys.argv[1:])
