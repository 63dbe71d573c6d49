// Package keys derives the keys of a repository, seals what is stored with them,
// and keeps the secret that they come from in a file under a passphrase.
//
//	master (32 random bytes)
//	 ├─ HKDF ─ names of data blocks, names of map nodes, cut points, VM ids
//	 ├─ HKDF ─ index: AES-256-GCM over index objects and pack directories
//	 ├─ HKDF ─ writers: enters every HPKE sealing, so that who knows only the public
//	 │         key cannot make a pack or a restore point
//	 ├─ HKDF ─ read: the HPKE key pair. Its public half seals pack keys and restore
//	 │         points; only the private half opens them
//	 └─ HKDF ─ "sign", kept free for the signing of restore points
//
// So a host can be given everything that deduplicating and writing need without
// the means to read what is stored: the Ring's methods that open are the ones that
// need the private half.
//
// Invariants:
//
//   - No key meets one nonce twice. A pack's key is random and its nonces are
//     offsets in the pack, which is written once; every index object and
//     directory is sealed under a key of its own, derived with a random salt.
//   - What is sealed is bound to the repository, to the kind, version and flags of
//     the object, and to its place: the offset in a pack, the name of a point.
//   - Nothing here is logged, and no error tells a secret.
package keys
