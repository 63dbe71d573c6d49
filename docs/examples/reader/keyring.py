"""The keys of a repository, in formats 1 and 2: unlocking, opening, verifying."""

import base64
import json
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import hpke
from blake3 import blake3

PREFIX, SALT, SIGNATURE = 8, 32, 64
ONCE = bytes(12)  # the nonce of keys that seal one thing only
RESTORE, MAINTAIN, OWNER = 2, 4, 8


class Damaged(Exception):
    """What was read is not what the format says."""


def want(condition: bool, what: str) -> None:
    if not condition:
        raise Damaged(what)


def decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


class Keys:
    """What a reader needs of the keys; self.data[e] and self.meta[e] open what was
    sealed in epoch e."""

    def __init__(self, config: dict):
        self.version = config["version"]
        self.repository = bytes.fromhex(config["id"])
        self.config = config
        self.data: dict[int, hpke.PrivateKey] = {}
        self.meta: dict[int, hpke.PrivateKey] = {}
        self.removed: dict[str, set[bytes]] = {}  # signers, and the hashes of what stays good of theirs

    def prefix(self, kind: str) -> bytes:
        return b"lull" + kind.encode() + bytes([self.version, 0, 0])

    def info(self, purpose: str) -> bytes:
        return f"lull v{self.version} {purpose}".encode()

    def derive(self, secret: bytes, purpose: str) -> bytes:
        return hpke.hkdf(secret, self.repository, self.info(purpose), 32)

    def pair(self, seed: bytes) -> hpke.PrivateKey:
        return hpke.PrivateKey(hpke.derived_seed(seed))

    def share(self, secret: bytes) -> None:
        """Derives what every role has."""
        self.data_names = self.derive(secret, "data names")
        self.node_names = self.derive(secret, "node names")
        self.index = self.derive(secret, "index")
        self.writers = self.derive(secret, "writers")

    def open_sealed(self, private: hpke.PrivateKey, purpose: str, aad: bytes, sealed: bytes) -> bytes:
        return private.open(self.info(purpose) + b" " + self.repository + self.writers, aad, sealed)

    def open_index(self, kind: str, sealed: bytes) -> bytes:
        key = hpke.hkdf(self.index, sealed[:SALT], self.info("sealed index"), 32)
        return AESGCM(key).decrypt(ONCE, sealed[SALT:], self.prefix(kind) + self.repository)

    # -- signatures, of format 2 ------------------------------------------------

    def verify(self, public: bytes, purpose: str, signature: bytes, content: bytes) -> None:
        message = self.info(purpose) + b" " + self.repository + blake3(content)
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)

    def certificate(self, b: bytes) -> dict:
        """Reads a certificate and verifies that the root has signed it."""
        document, signature = b[: -SIGNATURE - 2], b[-SIGNATURE - 2 : -2]
        want(len(document) == int.from_bytes(b[-2:], "little"), "certificate of another length")
        self.verify(decode(self.config["verify"]), "certificate", signature, document)
        return json.loads(document)

    def cut_trailer(self, purpose: str, name: str, b: bytes) -> tuple[bytes, dict]:
        """Takes the trailer off a signed object, and verifies it."""
        signed, signature = b[:-SIGNATURE], b[-SIGNATURE:]
        size = int.from_bytes(signed[-2:], "little") + SIGNATURE + 2
        certificate = self.certificate(signed[-size:])
        self.verify(decode(certificate["signer"]), purpose, signature, name.encode() + b"\0" + signed)
        return signed[:-size], certificate

    def counts(self, signer: dict, raw: bytes) -> bool:
        """Whether an object stays good: its signer was not removed, or had made it before."""
        return signer["signer"] not in self.removed or blake3(raw) in self.removed[signer["signer"]]

    def load_removed(self, directory: Path) -> None:
        """Reads which keys were removed. Records that do not list what the key had signed
        are passed over: they go by the times of a store, and a folder has none that tell."""
        records = []
        for path in sorted((directory / "revoked").glob("*")):
            raw = path.read_bytes()
            want(blake3(raw).hex() == path.name, f"{path}: name does not match")
            body, by = self.cut_trailer("document", "revoked/", raw)
            want({"maintain", "owner"} & set(by["roles"].split(",")), f"{path}: signed by a key that may not")
            document = json.loads(self.open_index("R", body[PREFIX:]))
            gone = self.certificate(decode(document["certificate"]))
            want("owner" not in gone["roles"] or "owner" in by["roles"], f"{path}: removes an owner")
            if "signed" in document:
                signed = decode(document["signed"])
                records.append((raw, by, gone["signer"], {signed[at : at + 32] for at in range(0, len(signed), 32)}))
        records.sort(key=lambda r: "owner" not in r[1]["roles"])
        while True:  # who was removed removes nobody any more
            self.removed = {}
            for _, _, signer, signed in records:
                self.removed.setdefault(signer, set()).update(signed)
            bad = next((r for r in reversed(records) if not self.counts(r[1], r[0])), None)
            if bad is None:
                return
            records.remove(bad)


def unlock(directory: Path, passphrase: bytes) -> Keys | None:
    """Tries the passphrase on each key file."""
    raw = (directory / "config").read_bytes()
    config = json.loads(raw)
    want(config["lull"] == "repository" and config["version"] in (1, 2), "config: neither version 1 nor 2")
    for path in sorted((directory / "keys").iterdir()):
        bundle = open_file(json.loads(path.read_bytes()), blake3(raw).hex(), passphrase)
        if bundle is not None:
            keys = Keys(config)
            (from_bundle1 if keys.version == 1 else from_bundle2)(keys, bundle, directory)
            keys.load_removed(directory)
            return keys
    return None


def open_file(f: dict, config: str, passphrase: bytes) -> bytes | None:
    want(f["config"] == config, "a key file belongs to another config")
    key = hash_secret_raw(passphrase, decode(f["salt"]), f["time"], f["memory_kib"], f["threads"], 32, Type.ID)
    try:
        return AESGCM(key).decrypt(ONCE, decode(f["sealed"]), f"lull v{f['version']} key {config}".encode())
    except InvalidTag:
        return None


def from_bundle1(keys: Keys, bundle: bytes, _: Path) -> None:
    want(len(bundle) == 33 and bundle[0] == 1, "a key without the master secret")
    master = bundle[1:]
    keys.share(master)
    keys.data[1] = keys.meta[1] = keys.pair(keys.derive(master, "read"))
    want(keys.data[1].public == decode(keys.config["public_key"]), "config: another public key")


def from_bundle2(keys: Keys, bundle: bytes, directory: Path) -> None:
    roles, host, rest = bundle[0], bundle[1:33], bundle[33:]
    rotations = sorted((directory / "epochs").iterdir()) if (directory / "epochs").is_dir() else []
    if roles & OWNER:
        keys.share(keys.derive(rest, "shared"))
        for e in range(1, len(rotations) + 2):
            keys.data[e] = keys.pair(keys.derive(rest, f"data {e}"))
            keys.meta[e] = keys.pair(keys.derive(rest, f"meta {e}"))
    elif roles & RESTORE:
        keys.share(rest[:32])
        for e, at in enumerate(range(32, len(rest), 64), 1):
            keys.data[e] = keys.pair(rest[at : at + 32])
            keys.meta[e] = keys.pair(rest[at + 32 : at + 64])
        for path in rotations[len(keys.data) - 1 :]:
            grant(keys, host, path)
    else:
        raise Damaged("this key does not read what is stored")
    want(keys.data[1].public == decode(keys.config["data_key"]), "config: another public key")


def grant(keys: Keys, host: bytes, path: Path) -> None:
    """Takes the private keys of an epoch that began after the key was made."""
    raw, _ = keys.cut_trailer("document", f"epochs/{path.name}", path.read_bytes())
    document = json.loads(keys.open_index("E", raw[PREFIX:]))
    box = keys.pair(keys.derive(host, "box"))
    number = document["epoch"].to_bytes(2, "little")
    for g in document["grants"]:
        try:
            seeds = keys.open_sealed(box, "grant", number, decode(g["sealed"]))
        except InvalidTag:
            continue  # another's
        keys.data[document["epoch"]] = keys.pair(seeds[:32])
        keys.meta[document["epoch"]] = keys.pair(seeds[32:])
