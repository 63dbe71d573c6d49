package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Key is one key of a repository.
type Key struct {
	Label   string    `json:"label"`
	Roles   Roles     `json:"roles"`
	Created time.Time `json:"created"`
	Signer  string    `json:"signer"`           // the public key that verifies what it signs, in base64
	This    bool      `json:"this,omitempty"`   // it has opened the repository
	Removed time.Time `json:"removed,omitzero"` // by the store's clock
	// Kept says that the file of a key that was removed is still there, because the store
	// keeps it locked or did not let it be deleted; it opens what it opened, and signs
	// nothing that anyone believes.
	Kept bool `json:"kept,omitempty"`
	// Unlisted is how many objects that a key had signed which was removed had no room in the
	// record of that: they are refused.
	Unlisted int `json:"unlisted,omitempty"`

	object string // its file; "" when it was removed
	file   keys.Recipient
}

// NewKey says what key to make.
type NewKey struct {
	Label      string
	Roles      Roles
	Passphrase []byte
	Cost       Cost // zero: 3 passes over 64 MiB
}

// Keys lists the keys of the repository, oldest first, with those that were removed. A
// damaged key file hides no other: its error comes beside them.
func (r *Repository) Keys(ctx context.Context) ([]Key, error) {
	if !r.ring.Format().Signed() {
		return nil, &readOnlyError{"list keys, which have no roles there"}
	}
	files, err := list(ctx, r.store, keyPrefix)
	if err != nil {
		return nil, err
	}
	var all []Key
	var damaged []error
	for _, f := range files[:min(len(files), maxKeyFiles)] {
		k, err := r.readKey(ctx, f)
		switch {
		case errors.Is(err, errStray):
		case passable(err):
			damaged = append(damaged, reported(err))
		case err != nil:
			return nil, err
		default:
			all = append(all, k)
		}
	}
	removed := r.trust.removed()
	for i := range removed {
		removed[i].Kept = slices.ContainsFunc(all, func(k Key) bool { return k.Signer == removed[i].Signer })
	}
	all = slices.DeleteFunc(all, func(k Key) bool { return !r.trust.holds(k.file.Certificate.Signer) })
	all = append(all, removed...)
	slices.SortFunc(all, func(a, b Key) int { return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Label, b.Label)) })
	return all, errors.Join(damaged...)
}

// errStray is what readKey says of a key file of another repository: an init that crashed
// before its config was there, or that came second, has left it. It opens nothing.
var errStray = errors.New("a key file of another repository")

func (r *Repository) readKey(ctx context.Context, f blob.Info) (Key, error) {
	b, err := readNamed(ctx, r.store, f, keys.MaxFile)
	if err != nil {
		return Key{}, objectErr(f.Name, err)
	}
	if !keys.Belongs(b, r.config) {
		return Key{}, errStray
	}
	file, err := r.ring.ParseFile(b)
	if err != nil {
		return Key{}, objectErr(f.Name, err)
	}
	k := keyOf(file.Certificate)
	k.object, k.file = f.Name, file
	if own := r.ring.Certificate(); own != nil {
		k.This = own.Signer == file.Certificate.Signer
	}
	return k, nil
}

func keyOf(c *keys.Certificate) Key {
	return Key{Label: c.Label, Roles: c.Roles, Created: c.Created, Signer: c.Signer.String()}
}

// present are the keys that have a file and were not removed, and what is wrong with
// files that are damaged.
func (r *Repository) present(ctx context.Context) ([]Key, error) {
	all, err := r.Keys(ctx)
	return slices.DeleteFunc(all, func(k Key) bool {
		return k.object == "" || !r.trust.holds(k.file.Certificate.Signer)
	}), err
}

// findKey is the key of a label.
func (r *Repository) findKey(ctx context.Context, label string) (Key, []Key, error) {
	all, err := r.present(ctx)
	for _, k := range all {
		if k.Label == label {
			return k, all, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%w: %s", ErrNoKey, label)
	}
	return Key{}, all, err
}

// AddKey makes a key with a passphrase of its own. ErrKeyExists when its label is taken.
func (r *Repository) AddKey(ctx context.Context, n NewKey) (Key, error) {
	if err := r.owner("make keys"); err != nil {
		return Key{}, err
	}
	if err := checkLabel(n.Label); err != nil {
		return Key{}, err
	}
	if len(n.Passphrase) == 0 {
		return Key{}, errors.New("make key: the passphrase is empty")
	}
	if n.Cost == (Cost{}) {
		n.Cost = keys.DefaultCost()
	}
	if _, _, err := r.findKey(ctx, n.Label); !errors.Is(err, ErrNoKey) {
		return Key{}, cmp.Or(err, fmt.Errorf("%w: %s", ErrKeyExists, n.Label))
	}
	secrets, c, err := r.ring.NewKey(n.Label, n.Roles, r.now())
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	b, err := keys.Lock(secrets, keys.Repository(r.id), c, r.config, n.Passphrase, n.Cost)
	if err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	object := keyObject(sum(b))
	if err := r.store.Create(ctx, object, b); err != nil {
		return Key{}, fmt.Errorf("make key: %w", err)
	}
	k := keyOf(c)
	k.object = object
	return k, nil
}

// owner fails unless this key may make others, be it on paper.
func (r *Repository) owner(what string) error {
	err := r.Allow(RoleOwner, what)
	if errors.As(err, new(*paperError)) {
		return nil
	}
	return err
}

const labelChars = "abcdefghijklmnopqrstuvwxyz0123456789._-"

// checkLabel fails for what is no label of a key: 1 to 64 of a to z, 0 to 9, dot,
// underscore and dash.
func checkLabel(label string) error {
	if label == "" || len(label) > 64 || strings.Trim(label, labelChars) != "" {
		return fmt.Errorf("%w: %.80q", ErrLabel, label)
	}
	return nil
}

// ExportKey returns the file of a key, for the host that is to use it.
func (r *Repository) ExportKey(ctx context.Context, label string) ([]byte, error) {
	k, _, err := r.findKey(ctx, label)
	if err != nil {
		return nil, err
	}
	info, err := r.store.Stat(ctx, k.object)
	if err != nil {
		return nil, objectErr(k.object, err)
	}
	b, err := readNamed(ctx, r.store, info, keys.MaxFile)
	return b, objectErr(k.object, err)
}

// Paper is the key that opened the repository as text to print and lock away: whoever has
// it and the store can read everything, and with an owner's make new keys.
func (r *Repository) Paper() (string, error) {
	if err := r.Allow(RoleRestore, "be put on paper"); err != nil {
		return "", err
	}
	if !r.ring.Format().Signed() {
		return "", &readOnlyError{"make a paper key"}
	}
	return r.ring.Paper()
}

// Rotation is an epoch that has begun.
type Rotation struct {
	Epoch int
	// Readers are the labels of the keys that open what is sealed in it, in order. A store
	// that hides the file of a key shuts that key out, and nobody but who knows his keys
	// can tell.
	Readers []string
}

// RotateKeys begins an epoch: everything that is written from now on by who opens the
// repository anew is sealed to other keys, which the keys get that may read and have not
// been removed.
func (r *Repository) RotateKeys(ctx context.Context) (Rotation, error) {
	if err := r.Allow(RoleOwner, "rotate keys"); err != nil {
		return Rotation{}, err
	}
	made, err := r.rotate(ctx)
	if err != nil {
		return Rotation{}, fmt.Errorf("rotate keys: %w", err)
	}
	return made, nil
}

func (r *Repository) rotate(ctx context.Context) (made Rotation, err error) {
	all, err := r.present(ctx)
	if err != nil {
		return made, err // one that is damaged would be shut out
	}
	var to []keys.Recipient
	for _, k := range all {
		to = append(to, k.file)
		if k.Roles.Has(RoleRestore | RoleMaintain) {
			made.Readers = append(made.Readers, k.Label)
		}
	}
	slices.Sort(made.Readers)
	made.Epoch = r.ring.Epochs() + 1
	plain, err := r.ring.Rotate(to)
	if err != nil {
		return made, err
	}
	b, err := r.sealDocument(wire.Epoch, epochObject(made.Epoch), plain)
	if err != nil {
		return made, err
	}
	if err := r.store.Create(ctx, epochObject(made.Epoch), b); err != nil {
		return made, err
	}
	return made, r.ring.AddEpoch(plain)
}

// loadTrust reads which keys were removed, and the epochs. What is wrong with those is
// kept for who asks.
func (r *Repository) loadTrust(ctx context.Context) error {
	r.trust.reset()
	if !r.ring.Format().Signed() {
		return nil
	}
	if err := r.loadRemovals(ctx); err != nil {
		return err
	}
	r.trust.stale = r.loadEpochs(ctx)
	if err := r.distrust(r.trust.stale); err != nil {
		return err
	}
	return r.distrust(r.memory.removals(r.trust.signers()))
}

// distrust keeps what is wrong with an object for who asks; other errors it returns.
func (r *Repository) distrust(err error) error {
	if passable(err) {
		r.trust.problems = append(r.trust.problems, err)
		return nil
	}
	return err
}

// loadEpochs reads what rotations have left, in order.
func (r *Repository) loadEpochs(ctx context.Context) error {
	infos, err := list(ctx, r.store, epochPrefix)
	if err != nil {
		return err
	}
	slices.SortFunc(infos, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range infos {
		if want := epochObject(r.ring.Epochs() + 1); info.Name != want {
			return objectErr(want, fmt.Errorf("%w: %s is there", ErrOmitted, info.Name))
		}
		plain, _, err := r.readDocument(ctx, wire.Epoch, info, "", RoleOwner)
		if err == nil {
			err = r.ring.AddEpoch(plain)
		}
		if err != nil {
			return objectErr(info.Name, err)
		}
	}
	if c := r.ring.Certificate(); c != nil && c.Epoch > r.ring.Epochs() {
		return objectErr(epochObject(c.Epoch), fmt.Errorf("%w: this key was made in that epoch", ErrOmitted))
	}
	return r.memory.epoch(r.ring.Epochs())
}

// createNamed seals a small document and stores it under its hash. One that is there
// already is as good.
func (r *Repository) createNamed(ctx context.Context, k wire.Kind, folder string, plain []byte) error {
	b, err := r.sealDocument(k, folder, plain)
	if err != nil {
		return err
	}
	name := folder + Hash(sum(b)).String()
	if err := r.store.Create(ctx, name, b); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("store %s: %w", name, err)
	}
	return nil
}
