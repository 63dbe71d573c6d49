"""ML-KEM-768 (FIPS 203): key generation from a seed, and decapsulation.

For reading only: it is neither fast nor does it run in constant time.
"""

from hashlib import sha3_256, sha3_512, shake_128, shake_256

Q = 3329
N = 256
K = 3
DU, DV = 10, 4


def bit_reversed(i: int) -> int:
    return int(f"{i:07b}"[::-1], 2)


ZETAS = [pow(17, bit_reversed(i), Q) for i in range(128)]
GAMMAS = [pow(17, 2 * bit_reversed(i) + 1, Q) for i in range(128)]


def ntt(f: list[int]) -> list[int]:
    f = f[:]
    i, length = 1, 128
    while length >= 2:
        for start in range(0, N, 2 * length):
            zeta = ZETAS[i]
            i += 1
            for j in range(start, start + length):
                t = zeta * f[j + length] % Q
                f[j + length] = (f[j] - t) % Q
                f[j] = (f[j] + t) % Q
        length //= 2
    return f


def inverse_ntt(f: list[int]) -> list[int]:
    f = f[:]
    i, length = 127, 2
    while length <= 128:
        for start in range(0, N, 2 * length):
            zeta = ZETAS[i]
            i -= 1
            for j in range(start, start + length):
                t = f[j]
                f[j] = (t + f[j + length]) % Q
                f[j + length] = zeta * (f[j + length] - t) % Q
        length *= 2
    return [x * 3303 % Q for x in f]  # 3303 = 128^-1


def multiply(f: list[int], g: list[int]) -> list[int]:
    """The product of two polynomials in their NTT form."""
    h = []
    for i in range(128):
        a0, a1, b0, b1 = f[2 * i], f[2 * i + 1], g[2 * i], g[2 * i + 1]
        h += [(a0 * b0 + a1 * b1 * GAMMAS[i]) % Q, (a0 * b1 + a1 * b0) % Q]
    return h


def add(*polynomials: list[int]) -> list[int]:
    return [sum(x) % Q for x in zip(*polynomials)]


def dot(row: list[list[int]], column: list[list[int]]) -> list[int]:
    return add(*(multiply(f, g) for f, g in zip(row, column)))


def bits(b: bytes) -> list[int]:
    return [byte >> i & 1 for byte in b for i in range(8)]


def encode(f: list[int], d: int) -> bytes:
    """ByteEncode: d bits of each coefficient, the lowest first."""
    n = 0
    for i, x in enumerate(f):
        n |= x << (d * i)
    return n.to_bytes(32 * d, "little")


def decode(b: bytes, d: int) -> list[int]:
    n = int.from_bytes(b, "little")
    return [n >> (d * i) & (1 << d) - 1 for i in range(N)]


def compress(f: list[int], d: int) -> list[int]:
    return [((x << d) + Q // 2) // Q & (1 << d) - 1 for x in f]


def decompress(f: list[int], d: int) -> list[int]:
    return [(x * Q + (1 << d - 1)) >> d for x in f]


def sample_ntt(seed: bytes) -> list[int]:
    """Rejection sampling of a polynomial in its NTT form."""
    stream = shake_128(seed).digest(168 * 12)
    f: list[int] = []
    for i in range(0, len(stream), 3):
        a, b, c = stream[i : i + 3]
        for d in (a + 256 * (b % 16), b // 16 + 16 * c):
            if d < Q and len(f) < N:
                f.append(d)
    if len(f) < N:
        raise ValueError("sampling needs a longer stream")  # chance below 2^-100
    return f


def sample_cbd(seed: bytes, counter: int) -> list[int]:
    """Samples from the centred binomial distribution with eta = 2."""
    b = bits(shake_256(seed + bytes([counter])).digest(128))
    return [(b[4 * i] + b[4 * i + 1] - b[4 * i + 2] - b[4 * i + 3]) % Q for i in range(N)]


def matrix(rho: bytes) -> list[list[list[int]]]:
    return [[sample_ntt(rho + bytes([j, i])) for j in range(K)] for i in range(K)]


class Key:
    """A decapsulation key, expanded from its 64-byte seed (d and z)."""

    def __init__(self, seed: bytes):
        d, self.z = seed[:32], seed[32:]
        g = sha3_512(d + bytes([K])).digest()
        rho, sigma = g[:32], g[32:]
        self.matrix = matrix(rho)
        self.secret = [ntt(sample_cbd(sigma, i)) for i in range(K)]
        errors = [ntt(sample_cbd(sigma, K + i)) for i in range(K)]
        self.public = [add(dot(self.matrix[i], self.secret), errors[i]) for i in range(K)]
        self.encapsulation_key = b"".join(encode(t, 12) for t in self.public) + rho

    def decapsulate(self, ciphertext: bytes) -> bytes:
        message = self._decrypt(ciphertext)
        g = sha3_512(message + sha3_256(self.encapsulation_key).digest()).digest()
        if self._encrypt(message, g[32:]) != ciphertext:
            return shake_256(self.z + ciphertext).digest(32)
        return g[:32]

    def _decrypt(self, ciphertext: bytes) -> bytes:
        size = 32 * DU
        u = [ntt(decompress(decode(ciphertext[i * size : (i + 1) * size], DU), DU)) for i in range(K)]
        v = decompress(decode(ciphertext[K * size :], DV), DV)
        product = inverse_ntt(dot(self.secret, u))
        return encode(compress([(a - b) % Q for a, b in zip(v, product)], 1), 1)

    def _encrypt(self, message: bytes, randomness: bytes) -> bytes:
        y = [ntt(sample_cbd(randomness, i)) for i in range(K)]
        columns = [[self.matrix[i][j] for i in range(K)] for j in range(K)]
        u = [add(inverse_ntt(dot(columns[j], y)), sample_cbd(randomness, K + j)) for j in range(K)]
        mu = decompress(decode(message, 1), 1)
        v = add(inverse_ntt(dot(self.public, y)), sample_cbd(randomness, 2 * K), mu)
        return b"".join(encode(compress(f, DU), DU) for f in u) + encode(compress(v, DV), DV)
