package repo

import (
	"bytes"
	"cmp"
	"context"
	"slices"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// choice says which copies of a block the repository goes on with: those that prune keeps
// and that locks are renewed of.
type choice struct {
	packs   map[[32]byte]*packUse // in the store
	keepers map[keys.Signer]bool  // of packs: whether the key is one that may delete anyway
	blind   bool                  // what is damaged is not known
	// leaving are packs that an open mark is to take, if they can be done without.
	leaving map[[32]byte]struct{}
}

// packUse is how much of a pack is needed.
type packUse struct {
	info   blob.Info
	listed bool  // in an index object
	bad    bool  // known to be damaged
	total  int64 // bytes of blocks, unpacked
	live   int64 // of those that are needed, from this pack
}

func newChoice(m *marks) choice {
	c := choice{packs: map[[32]byte]*packUse{}, keepers: map[keys.Signer]bool{}}
	if m.open != nil {
		c.leaving = m.open.packs
	}
	return c
}

// listPacks takes down which packs there are, and which are known to be damaged.
func (c *choice) listPacks(ctx context.Context, r *Repository) error {
	infos, err := list(ctx, r.store, packPrefix)
	if err != nil {
		return err
	}
	bad, all := r.doubts.packs()
	c.blind = !all
	for _, info := range infos {
		if name, ok := sumOf(info.Name); ok && packObject(name) == info.Name {
			c.packs[name] = &packUse{info: info, bad: bad[name]}
		}
	}
	return nil
}

// certified takes down whether a key that packs are signed by belongs to maintenance.
func (c *choice) certified(r *Repository, certificate []byte) {
	if by, err := r.ring.ParseCertificate(certificate); err == nil {
		c.keepers[by.Signer] = by.Roles.Has(RoleMaintain) && r.trust.holds(by.Signer)
	}
}

// copies are the places of a block that are in the store, in dst's memory.
func (c *choice) copies(dst, places []index.Location) []index.Location {
	dst = dst[:0]
	for i := range places {
		if c.packs[places[i].Pack] != nil {
			dst = append(dst, places[i])
		}
	}
	return dst
}

// superfluous tells whether there is a better copy of a block, on the word of a key that
// counts here: that of the same host, or of maintenance, which reads what it stores anew.
// A host that was taken over may list what it likes: that makes no other's copy needless.
func (c *choice) superfluous(l *index.Location, copies []index.Location) bool {
	return !c.blind && slices.ContainsFunc(copies, func(o index.Location) bool {
		vouched := o.Signer != index.Location{}.Signer && (o.Signer == l.Signer || c.keepers[keys.Signer(o.Signer)])
		return vouched && o.Pack != l.Pack && c.better(&o, l)
	})
}

// better tells whether a block is rather taken from a than from b. That depends on the
// packs alone, so that all maintainers see the same copies as superfluous. What came later
// was stored by somebody who would not, or could not, take the other.
func (c *choice) better(a, b *index.Location) bool {
	_, goesA := c.leaving[a.Pack]
	_, goesB := c.leaving[b.Pack]
	if goesA != goesB {
		return goesB
	}
	x, y := c.packs[a.Pack], c.packs[b.Pack]
	if x.bad != y.bad {
		return y.bad
	}
	return cmp.Or(y.info.Created.Compare(x.info.Created), bytes.Compare(a.Pack[:], b.Pack[:])) < 0
}
