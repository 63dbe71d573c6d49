package repo

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/index"
	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// Domain says whose packs a backup builds on. A host that was taken over may put a wrong
// block under a good name into a pack of its own: a backup that took such a block for
// known would be spoiled. What maintenance has stored is in every domain: it can delete
// everything anyway.
type Domain struct {
	// Own: only packs of the key that backs up.
	Own bool
	// Trusted: packs of the keys with these labels too. Empty and not Own: of all keys.
	Trusted []string
}

// all tells whether the packs of all keys are taken.
func (d Domain) all() bool { return !d.Own && len(d.Trusted) == 0 }

// String is what a point says of the domain that it was made in: "" for all.
func (d Domain) String() string {
	if len(d.Trusted) == 0 {
		if d.Own {
			return "own"
		}
		return ""
	}
	labels := slices.Clone(d.Trusted)
	slices.Sort(labels)
	return "trusted " + strings.Join(slices.Compact(labels), " ")
}

// domainOf is the domain that a point says it was made in.
func domainOf(deduplicated string) Domain {
	labels, trusted := strings.CutPrefix(deduplicated, "trusted ")
	if trusted {
		return Domain{Trusted: strings.Fields(labels)}
	}
	return Domain{Own: deduplicated == "own"}
}

// takes tells whether packs of another key than the session's own belong to the domain.
func (d Domain) takes(c *keys.Certificate) bool {
	return c.Roles.Has(RoleMaintain) || c.Roles.Has(RoleBackup) && (d.all() || slices.Contains(d.Trusted, c.Label))
}

// domain is a Domain with the signing keys that belong to it.
type domain struct {
	Domain
	signers map[keys.Signer]bool // nil: all
}

// openDomain finds the keys of the domain by their labels.
func (r *Repository) openDomain(ctx context.Context, d Domain) error {
	r.domain = domain{Domain: d}
	own := r.ring.Certificate()
	if d.all() || own == nil {
		return nil
	}
	r.domain.signers = map[keys.Signer]bool{own.Signer: true}
	all, err := r.present(ctx)
	if err != nil && !passable(err) {
		return err // a damaged key file keeps its packs out, no more
	}
	for _, k := range all {
		if d.takes(k.file.Certificate) {
			r.domain.signers[k.file.Certificate.Signer] = true
		}
	}
	return nil
}

// vouched tells whether sessions build on what a key signed.
func (r *Repository) vouched(s keys.Signer) bool {
	if s == (keys.Signer{}) || !r.trust.holds(s) {
		return false
	}
	return r.domain.signers == nil || r.domain.signers[s]
}

// usable tells whether sessions build on a block that lies there.
func (r *Repository) usable(l *index.Location) bool { return r.vouched(keys.Signer(l.Signer)) }

// adopt takes down which maps may be parents: those of points that were made in this
// domain by keys of it, for then every block that they name was stored in it.
func (r *Repository) adopt(p *Point, by *keys.Certificate) {
	if r.domain.all() || by == nil || !r.vouched(by.Signer) || p.Deduplicated != r.domain.String() {
		return
	}
	r.parents.mu.Lock()
	defer r.parents.mu.Unlock()
	if r.parents.roots == nil {
		r.parents.roots = map[block.Name]bool{}
	}
	for root := range p.roots() {
		r.parents.roots[root.Node] = true
	}
}

// removedFrom stands for the keys of a domain that were removed: the hash of their signers,
// in order; zero for none. A point has that of when its session began. No clock is asked for
// what came first, the host's or the store's: where a removal was hidden for a while, or is
// under way beside a session, the two differ, and a disk is read in full.
func (r *Repository) removedFrom(deduplicated string) Hash {
	gone := r.trust.removedFrom(domainOf(deduplicated))
	if len(gone) == 0 {
		return Hash{}
	}
	slices.SortFunc(gone, func(a, b keys.Signer) int { return bytes.Compare(a[:], b[:]) })
	var all []byte
	for _, s := range gone {
		all = append(all, s[:]...)
	}
	return sum(all)
}

// mayInherit tells whether a map of a point may be a parent. Windows that are equal to a
// parent's are not looked up: so what a removed key has made is none in any domain, for its
// packs count no more. Nor is what anybody has made who still counted the packs of such a key:
// the leaves may name blocks that are nowhere but there.
func (r *Repository) mayInherit(p *Point, root *Root) bool {
	if !r.trust.knows(p.Signer) || p.Removed != r.removedFrom(p.Deduplicated) {
		return false
	}
	if r.domain.all() {
		return true
	}
	r.parents.mu.Lock()
	defer r.parents.mu.Unlock()
	return r.parents.roots[root.Node]
}

// parents are the maps that may be parents, by their top nodes, where the domain is not
// all.
type parents struct {
	mu    sync.Mutex
	roots map[block.Name]bool
}
