package repo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// revocation is the document that removes a key.
type revocation struct {
	Certificate []byte `json:"certificate"`
	// Signed are the hashes, 32 bytes each, of the objects that the key had signed. They
	// alone stay good. Nil in records of before.
	Signed []byte `json:"signed,omitzero"`
}

// maxSigned bounds what a key has signed: what a record has room for.
const maxSigned = 1 << 18

// RemoveKey removes a key: what it has signed is taken down, anything else that it signs is
// refused, and its file is gone.
// What it could read it can still read, for who kept a copy of the file; RotateKeys keeps
// what comes later from it. The word that it is removed comes first: a store that keeps the
// file locked, or lets this host not delete it (Kept), takes nothing back of that.
//
// label may be the key's Signer as well; a key whose file is gone is found by what it signed.
// Of a key that has signed more than a record has room for, the rest is refused too: Unlisted.
func (r *Repository) RemoveKey(ctx context.Context, label string) (Key, error) {
	return r.removeKey(ctx, label, maxSigned)
}

func (r *Repository) removeKey(ctx context.Context, label string, room int) (Key, error) {
	if err := r.Allow(RoleMaintain, "remove keys"); err != nil {
		return Key{}, err
	}
	k, all, err := r.keyToRemove(ctx, label)
	if err != nil {
		return Key{}, err
	}
	if k.Roles.Has(RoleOwner) {
		if err := r.Allow(RoleOwner, "remove an owner's key"); err != nil {
			return Key{}, err
		}
		if !slices.ContainsFunc(all, func(o Key) bool { return o.Roles.Has(RoleOwner) && o.Signer != k.Signer }) {
			return Key{}, fmt.Errorf("%w: %s", ErrLastOwner, label)
		}
	}
	signed, err := r.signedBy(ctx, k.file.Certificate.Signer)
	if err != nil {
		return Key{}, fmt.Errorf("remove key: look at what it has signed: %w", err)
	}
	k.Unlisted = max(0, len(signed)-room)
	hashes := []byte{}
	for _, o := range signed[:len(signed)-k.Unlisted] {
		hashes = append(hashes, o.hash[:]...)
	}
	plain, err := json.Marshal(revocation{Certificate: k.file.Certificate.Bytes(), Signed: hashes})
	if err != nil {
		return Key{}, fmt.Errorf("remove key: %w", err)
	}
	if err := r.createNamed(ctx, wire.Revocation, revokedPrefix, plain); err != nil {
		return Key{}, fmt.Errorf("remove key: %w", err)
	}
	r.trust.revoke(removal{k.file.Certificate, r.now(), setOf(hashes)})
	if k.object == "" {
		return k, nil
	}
	gone, err := remove(ctx, r.store, k.object)
	if err != nil && !errors.Is(err, blob.ErrDenied) {
		return Key{}, fmt.Errorf("remove key: %w", err)
	}
	k.Kept = !gone
	return k, nil
}

// signedPrefixes are where objects lie that count on the word of their signer. Sessions are
// left out: anybody makes any number of them, and one whose end is refused is waited for until
// the grace is over.
func signedPrefixes() []string {
	return []string{
		pointPrefix, epochPrefix, revokedPrefix, forgottenPrefix, quarantinePrefix,
		holdPrefix, leasePrefix, markPrefix, indexPrefix,
	}
}

// signedObject is an object that a key has signed.
type signedObject struct {
	blob.Info
	hash Hash
}

// signedBy are all such objects that a key has signed, those first that a record is to have
// room for. Whether they are good shows when they are read.
func (r *Repository) signedBy(ctx context.Context, signer keys.Signer) ([]signedObject, error) {
	var all []signedObject
	var mu sync.Mutex
	err := r.eachObject(ctx, signedPrefixes(), func(ctx context.Context, info blob.Info) error {
		if strings.HasPrefix(info.Name, indexPrefix) && info.Size > maxNote {
			return nil // no fence: what an index object lists is the word of who made the packs
		}
		h, is, err := r.isBy(ctx, info, signer)
		if is {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, signedObject{info, h})
		}
		return err
	})
	slices.SortFunc(all, inRecord)
	return all, err
}

// inRecord is the order of objects in a record: points and documents before fences, and what
// the store has had for longer first, for that was there before a thief made more than a
// record has room for.
func inRecord(a, b signedObject) int {
	late := func(o *signedObject) int {
		if strings.HasPrefix(o.Name, indexPrefix) {
			return 1
		}
		return 0
	}
	return cmp.Or(late(&a)-late(&b), a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
}

// isBy tells whether an object is signed by a key, and is the object's hash. What is gone or
// too large is nobody's, nor is what only bears the key's certificate.
func (r *Repository) isBy(ctx context.Context, info blob.Info, signer keys.Signer) (Hash, bool, error) {
	b, err := readSized(ctx, r.store, info, maxMark)
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, wire.ErrDamaged) {
		return Hash{}, false, nil
	}
	if err != nil {
		return Hash{}, false, err
	}
	folder, _, _ := strings.Cut(info.Name, "/") // of objects that are named by their hash
	return sum(b), r.ring.Signed(signer, b, info.Name, info.Name, folder+"/"), nil
}

// setOf is nil for nil.
func setOf(hashes []byte) map[Hash]bool {
	if hashes == nil {
		return nil
	}
	set := map[Hash]bool{}
	for h := range slices.Chunk(hashes, len(Hash{})) {
		set[Hash(h)] = true
	}
	return set
}

// record is a revocation that was read.
type record struct {
	info  blob.Info
	bytes []byte
	by    *keys.Certificate
	removal
}

// loadRemovals reads which keys were removed. Who was removed removes nobody any more, but
// for whom it had removed by then. As records may come in any order, and a store may lie
// about times, each is held against all others until nothing changes; of two that remove
// each other's signers an owner's counts, then the one that came first.
func (r *Repository) loadRemovals(ctx context.Context) error {
	infos, err := list(ctx, r.store, revokedPrefix)
	if err != nil {
		return err
	}
	var records []record
	for _, info := range infos {
		rec, err := r.readRecord(ctx, info)
		if err := r.distrust(err); err != nil {
			return err
		}
		if rec.certificate != nil {
			records = append(records, rec)
		}
	}
	slices.SortFunc(records, func(a, b record) int {
		return cmp.Or(a.rank()-b.rank(), a.info.Created.Compare(b.info.Created), strings.Compare(a.info.Name, b.info.Name))
	})
	for before := -1; before != len(records); {
		before = len(records)
		r.trust.reset()
		records = slices.DeleteFunc(records, func(rec record) bool {
			refused := r.refuses(rec)
			if !refused {
				r.trust.revoke(rec.removal)
			}
			return refused
		})
		records = slices.DeleteFunc(records, r.refuses) // by what came after them
	}
	return nil
}

// rank is 0 for an owner's word, which goes before others'.
func (rec *record) rank() int {
	if rec.by.Roles.Has(RoleOwner) {
		return 0
	}
	return 1
}

// refuses tells whether the signer of a record was removed before, and keeps that for who
// asks.
func (r *Repository) refuses(rec record) bool {
	err := r.trust.allows(rec.by, RoleMaintain, rec.info, rec.bytes)
	if err != nil {
		r.trust.problems = append(r.trust.problems, objectErr(rec.info.Name, err))
	}
	return err != nil
}

// readRecord reads a record of a key that was removed, whoever signed it.
func (r *Repository) readRecord(ctx context.Context, info blob.Info) (rec record, err error) {
	b, err := readNamed(ctx, r.store, info, maxSmall)
	if err != nil {
		return rec, objectErr(info.Name, err)
	}
	plain, by, err := r.ring.OpenDocument(wire.Revocation, revokedPrefix, b)
	if err == nil {
		err = mayMake(by, RoleMaintain)
	}
	if err != nil {
		return rec, objectErr(info.Name, err)
	}
	var doc revocation
	if json.Unmarshal(plain, &doc) != nil || len(doc.Signed)%len(Hash{}) != 0 {
		return rec, objectErr(info.Name, fmt.Errorf("%w: no revocation", wire.ErrDamaged))
	}
	c, err := r.ring.ParseCertificate(doc.Certificate)
	if err == nil && c.Roles.Has(RoleOwner) && !by.Roles.Has(RoleOwner) {
		err = fmt.Errorf("%w: %.64q cannot remove an owner", wire.ErrForged, by.Label)
	}
	if err != nil {
		return rec, objectErr(info.Name, err)
	}
	return record{info, b, by, removal{c, info.Created, setOf(doc.Signed)}}, nil
}
