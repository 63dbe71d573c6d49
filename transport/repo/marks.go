package repo

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// Prune works by marks, which are numbered: marks/<n> names packs that are to go,
// marks/<n>.sessions the sessions that may not know of it, and marks/<n>.done is the
// decision, after which the packs are no part of the repository. Mark n+1 comes after
// decision n, so at most one mark is open. As each of these names is created once,
// maintainers that work at the same time cannot disagree.
const (
	markDigits     = 16
	markSessions   = ".sessions"
	markDone       = ".done"
	maxMark        = 64 << 20 // bytes of a mark or a decision
	maxMarkedPacks = 1 << 18  // in one mark; the rest waits for the next
)

func markObject(n uint64) string { return fmt.Sprintf("%s%0*x", markPrefix, markDigits, n) }

// cutMark reads the number of a mark's object, and which of the three it is.
func cutMark(object string) (n uint64, part string, ok bool) {
	name := strings.TrimPrefix(object, markPrefix)
	if len(name) < markDigits {
		return 0, "", false
	}
	n, err := strconv.ParseUint(name[:markDigits], 16, 64)
	return n, name[markDigits:], err == nil && n > 0
}

// markDoc is the content of marks/<n>.
type markDoc struct {
	Number uint64 `json:"number"`
	// Dead are packs that nothing needed when the points were read, 32 bytes each,
	// Thin those whose live blocks are in other packs too.
	Dead []byte `json:"dead"`
	Thin []byte `json:"thin,omitempty"`
	// Points are the restore points that were read, all whole without these packs:
	// the first 16 bytes of the BLAKE3 hash of each object's name.
	Points []byte `json:"points"`
}

// sessionsDoc is the content of marks/<n>.sessions: all that were under way when the
// mark was there already. Those that are not in it have begun later, and know it.
type sessionsDoc struct {
	Sessions []sid `json:"sessions"`
}

// sessionsAt reads which sessions were under way at mark n; not there: nobody has written
// that down yet.
func (r *Repository) sessionsAt(ctx context.Context, store blob.Store, n uint64) (all []sid, there bool, err error) {
	info, err := store.Stat(ctx, markObject(n)+markSessions)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	var doc sessionsDoc
	err = r.readJSON(ctx, store, wire.Mark, info, maxMark, &doc)
	return doc.Sessions, true, err
}

// decision is the content of marks/<n>.done.
type decision struct {
	Number uint64 `json:"number"`
	// Packs are those that go, 32 bytes each.
	Packs []byte `json:"packs"`
	// Index are the index objects that maintenance made and that count; Drop those
	// that count no longer, until they are deleted. Those of sessions count as long as
	// they are there.
	Index []string `json:"index"`
	Drop  []string `json:"drop"`
}

// mark is an open mark.
type mark struct {
	number uint64
	packs  map[[32]byte]struct{}
	points map[pointHash]struct{}
}

type pointHash [16]byte

func hashPoint(object string) pointHash {
	h := sum([]byte(object))
	return pointHash(h[:16])
}

// marks is what maintenance says at one moment.
type marks struct {
	done  uint64    // number of the newest decision; 0: none
	last  *decision // the newest; nil for none
	open  *mark     // nil: none
	valid map[string]bool
	drop  map[string]bool
	// unread: what there is cannot be read. Who only reads takes all index objects then:
	// what they say too much is found out block by block. Nobody writes.
	unread bool
}

// number is that of the newest mark.
func (m *marks) number() uint64 {
	if m.open != nil {
		return m.open.number
	}
	return m.done
}

// trusts tells whether every block of a point is outside of the open mark's packs,
// and stays there though the point be forgotten: it was read for the mark, or its own
// session knew of the mark.
func (m *marks) trusts(p *Point, object string) bool {
	if m.open == nil || p.Mark >= m.open.number {
		return true
	}
	_, read := m.open.points[hashPoint(object)]
	return read
}

// counts tells whether an index object is part of the repository.
func (m *marks) counts(object string) bool {
	if m.drop[object] {
		return false
	}
	return !isMaintenance(object) || m.valid[object] || m.unread
}

// readableMarks reads what maintenance says, as far as it can be read: for who reads.
func (r *Repository) readableMarks(ctx context.Context) (*marks, error) {
	m, err := r.readMarks(ctx, r.store, nil)
	if passable(err) {
		return &marks{unread: true}, nil
	}
	return m, err
}

// gone are the packs, by object, that the newest decision has made no part of the
// repository: those that are there still are about to be deleted.
func (m *marks) gone() map[string]bool {
	if m.last == nil {
		return nil
	}
	all := map[string]bool{}
	for name := range slices.Chunk(m.last.Packs, 32) {
		all[packObject([32]byte(name))] = true
	}
	return all
}

// maintenanceIndex names an index object that maintenance makes for decision n.
func maintenanceIndex(n uint64, salt [8]byte) string {
	return fmt.Sprintf("%sm%0*x.%s", indexPrefix, markDigits, n, hex.EncodeToString(salt[:]))
}

func isMaintenance(object string) bool { return strings.HasPrefix(object, indexPrefix+"m") }

// readMarks reads what maintenance says; known is what was read before and spares
// reading it again.
func (r *Repository) readMarks(ctx context.Context, store blob.Store, known *marks) (*marks, error) {
	l, err := r.listMarks(ctx, store)
	if err != nil {
		return nil, err
	}
	m, err := l.read(ctx, known)
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (r *Repository) listMarks(ctx context.Context, store blob.Store) (*markList, error) {
	infos, err := list(ctx, store, markPrefix)
	if err != nil {
		return nil, err
	}
	l := &markList{r: r, store: store, infos: map[string]blob.Info{}}
	for _, i := range infos {
		l.infos[i.Name] = i
		if n, _, ok := cutMark(i.Name); ok {
			l.top = max(l.top, n)
		}
	}
	return l, nil
}

// markList finds marks by name: what is not in the list may be there all the same,
// because lists may lag.
type markList struct {
	r     *Repository
	store blob.Store
	infos map[string]blob.Info
	top   uint64 // the greatest number; 0: none
}

func (l *markList) find(ctx context.Context, object string) (blob.Info, bool, error) {
	if i, ok := l.infos[object]; ok {
		return i, true, nil
	}
	i, err := l.store.Stat(ctx, object)
	if errors.Is(err, blob.ErrNotFound) {
		return i, false, nil
	}
	return i, err == nil, err
}

// read reads the newest decision, then the open mark. What it returns beside an error of
// the open mark alone is what there is without.
func (l *markList) read(ctx context.Context, known *marks) (*marks, error) {
	m := &marks{done: l.top}
	if l.top == 0 {
		return m, nil
	}
	info, done, err := l.find(ctx, markObject(l.top)+markDone)
	if err != nil {
		return nil, err
	}
	if done {
		return l.decided(ctx, info, m, known)
	}
	if m.done = l.top - 1; m.done > 0 {
		if info, done, err = l.find(ctx, markObject(m.done)+markDone); err != nil {
			return nil, err
		}
		if !done {
			return nil, objectErr(markObject(m.done)+markDone, fmt.Errorf("%w: missing", wire.ErrDamaged))
		}
		if m, err = l.decided(ctx, info, m, known); err != nil {
			return nil, err
		}
	}
	m.open, err = l.open(ctx, l.top, known)
	return m, err
}

func (l *markList) open(ctx context.Context, n uint64, known *marks) (*mark, error) {
	if known != nil && known.open != nil && known.open.number == n {
		return known.open, nil
	}
	object := markObject(n)
	info, ok, err := l.find(ctx, object)
	if err == nil && !ok {
		err = blob.ErrNotFound
	}
	if err != nil {
		return nil, objectErr(object, err)
	}
	var doc markDoc
	if err := l.r.readJSON(ctx, l.store, wire.Mark, info, maxMark, &doc); err != nil {
		return nil, err
	}
	if doc.Number != n || len(doc.Dead)%32 != 0 || len(doc.Thin)%32 != 0 || len(doc.Points)%16 != 0 {
		return nil, objectErr(object, fmt.Errorf("%w: mark %d", wire.ErrDamaged, doc.Number))
	}
	m := &mark{number: n, packs: map[[32]byte]struct{}{}, points: map[pointHash]struct{}{}}
	for p := range slices.Chunk(slices.Concat(doc.Dead, doc.Thin), 32) {
		m.packs[[32]byte(p)] = struct{}{}
	}
	for p := range slices.Chunk(doc.Points, 16) {
		m.points[pointHash(p)] = struct{}{}
	}
	return m, nil
}

// decided puts the newest decision into m.
func (l *markList) decided(ctx context.Context, info blob.Info, m, known *marks) (*marks, error) {
	if known != nil && known.last != nil && known.done == m.done {
		m.last, m.valid, m.drop = known.last, known.valid, known.drop
		return m, nil
	}
	m.last = new(decision)
	if err := l.r.readJSON(ctx, l.store, wire.Mark, info, maxMark, m.last); err != nil {
		return nil, err
	}
	if m.last.Number != m.done || len(m.last.Packs)%32 != 0 {
		return nil, objectErr(info.Name, fmt.Errorf("%w: decision %d", wire.ErrDamaged, m.last.Number))
	}
	m.valid, m.drop = map[string]bool{}, map[string]bool{}
	for _, object := range m.last.Index {
		m.valid[object] = true
	}
	for _, object := range m.last.Drop {
		m.drop[object] = true
	}
	return m, nil
}

// known is what a repository last read of marks, and how far the index has followed.
type known struct {
	mu         sync.Mutex
	marks      *marks
	reconciled uint64 // decision
	opened     uint64 // decision, when the repository was opened
	doubted    uint64 // mark
}

// pruned tells whether maintenance has deleted anything since the repository was opened.
func (r *Repository) pruned() bool {
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	return r.known.reconciled != r.known.opened
}

// refresh reads the marks, and makes the index follow them: packs that are gone are
// forgotten, those that are marked not offered to sessions any more.
func (r *Repository) refresh(ctx context.Context, store blob.Store) (*marks, error) {
	r.known.mu.Lock()
	defer r.known.mu.Unlock()
	m, err := r.readMarks(ctx, store, r.known.marks)
	if err != nil {
		return nil, err
	}
	r.known.marks = m
	if m.open != nil && m.open.number != r.known.doubted {
		for p := range m.open.packs {
			r.index.Doubt(p)
		}
		r.known.doubted = m.open.number
	}
	if m.done == r.known.reconciled {
		return m, nil
	}
	r.syncing.Lock()
	defer r.syncing.Unlock()
	if err := r.syncIndex(ctx, store, m, r.index.Reconcile); err != nil {
		return nil, err
	}
	r.known.reconciled = m.done
	return m, nil
}
