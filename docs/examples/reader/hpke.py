"""Opening what HPKE (RFC 9180, base mode) sealed, and HKDF-SHA256.

KEM 0x647a, X25519 with ML-KEM-768 of draft-ietf-hpke-pq ("X-Wing"); KDF
HKDF-SHA256; AEAD AES-256-GCM. Only the recipient's half.
"""

import hmac
from hashlib import sha3_256, shake_256

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import mlkem768

KEM_ID = b"\x64\x7a"
SUITE = b"HPKE" + KEM_ID + b"\x00\x01" + b"\x00\x02"
ENCAPSULATED = 1120
PQ_CIPHERTEXT = 1088
LABEL = rb"\.//^" + b"\\"


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = hmac.digest(prk, block + info + bytes([n]), "sha256")
        out, n = out + block, n + 1
    return out[:length]


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return expand(extract(salt, secret), info, length)


def labeled_extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + SUITE + label + ikm)


def labeled_expand(prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + SUITE + label + info, length)


def big16(n: int) -> bytes:
    return n.to_bytes(2, "big")


def derived_seed(ikm: bytes) -> bytes:
    """DeriveKeyPair, as far as the seed that the key pair expands from."""
    label = b"DeriveKeyPair"
    return shake_256(ikm + b"HPKE-v1" + b"KEM" + KEM_ID + big16(len(label)) + label + big16(32)).digest(32)


class PrivateKey:
    def __init__(self, seed: bytes):
        stream = shake_256(seed).digest(96)
        self.pq = mlkem768.Key(stream[:64])
        self.curve = X25519PrivateKey.from_private_bytes(stream[64:])
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        self.curve_public = self.curve.public_key().public_bytes(*raw)
        self.public = self.pq.encapsulation_key + self.curve_public

    def decapsulate(self, encapsulated: bytes) -> bytes:
        pq, curve = encapsulated[:PQ_CIPHERTEXT], encapsulated[PQ_CIPHERTEXT:]
        exchanged = self.curve.exchange(X25519PublicKey.from_public_bytes(curve))
        return sha3_256(self.pq.decapsulate(pq) + exchanged + curve + self.curve_public + LABEL).digest()

    def open(self, info: bytes, aad: bytes, sealed: bytes) -> bytes:
        """Opens an encapsulated key with a ciphertext behind it."""
        secret = labeled_extract(self.decapsulate(sealed[:ENCAPSULATED]), b"secret", b"")
        context = b"\0" + labeled_extract(b"", b"psk_id_hash", b"") + labeled_extract(b"", b"info_hash", info)
        key = labeled_expand(secret, b"key", context, 32)
        nonce = labeled_expand(secret, b"base_nonce", context, 12)
        return AESGCM(key).decrypt(nonce, sealed[ENCAPSULATED:], aad)
