// Package keys derives the keys of a repository, seals and signs what is stored with them,
// and keeps the secrets that they come from in files under passphrases.
//
//	master (32 random bytes, the owner's)
//	 ├─ root: Ed25519, certifies the keys that sign
//	 ├─ data n, meta n: two HPKE key pairs for each epoch n. The public halves seal the keys
//	 │    of packs and the restore points; data opens disk data, meta opens maps
//	 └─ shared: the secret of all roles
//	     ├─ names of data blocks, names of map nodes, cut points, VM ids
//	     ├─ index: AES-256-GCM over index objects, pack directories and small documents
//	     └─ writers: enters every HPKE sealing, so that who knows only the public keys
//	          cannot make a pack or a restore point
//	host (32 random bytes, of one key file)
//	 ├─ signer: Ed25519, what this key signs with; its certificate says whose it is
//	 └─ box: HPKE, opens the epochs that are granted to this key by a rotation
//
// A key file holds what its roles need: backup host and shared, restore the private halves
// of all epochs too, maintain those of meta only, the owner host and master. So a host can
// be given everything that deduplicating and writing need without the means to read what
// is stored: the Ring's methods that open fail with ErrRole then.
//
// Format 1 had one role, one key pair ("read") and no signatures. It is read, not written.
//
// Invariants:
//
//   - No key meets one nonce twice. A pack's key is random and its nonces are
//     offsets in the pack, which is written once; every index object, directory and
//     document is sealed under a key of its own, derived with a random salt.
//   - What is sealed is bound to the repository, to the kind, version and flags of
//     the object, and to its place: the offset in a pack, the name of a point. What is
//     signed is bound to the repository, the purpose and the name.
//   - A signed object carries its signer's certificate: it can be verified with the
//     repository's config alone, whatever became of the key.
//   - Nothing here is logged, and no error tells a secret.
package keys
