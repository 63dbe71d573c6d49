package repo

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"

	"github.com/lull-backup/lull/snapshot/durable"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo/internal/tree"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// mapFile is what a host keeps of its last point of a VM.
//
// A host whose key only backs up cannot read from the store what its last point of a VM
// was. It keeps that itself, a file a VM: the point, and the nodes of its maps above the
// leaves, which is all that a backup asks of a parent: 10 MiB for each TiB of disk. Neither
// holds anything of what is on the disks but keyed names. When the file is lost, the disks
// are read in full and looked up block by block.
//
//	u32  length, then the point as JSON
//	for each node:  u32 length, then the node as it was stored
//
// Nodes are compared with their names whenever they are read.
type mapFile struct {
	f  *os.File
	of *Repository

	mu    sync.Mutex
	at    map[block.Name]extent
	end   int64
	point rememberedPoint
}

// rememberedPoint is what the host itself needs of its last point.
type rememberedPoint struct {
	Hash  Hash  `json:"hash"`
	Point Point `json:"point"`
}

// extent is a place in a file.
type extent struct {
	off    int64
	length int
}

// maxRemembered bounds the point in a file of maps, in bytes.
const maxRemembered = 32 << 20

func (r *Repository) mapsPath(vm [16]byte) string {
	if r.cache == "" {
		return ""
	}
	return filepath.Join(r.cache, "maps", hex.EncodeToString(vm[:]))
}

// openMaps opens what this host keeps of its last point of a VM; nil when there is
// nothing, or nothing that can be understood.
func (r *Repository) openMaps(vm [16]byte) (*mapFile, error) {
	path := r.mapsPath(vm)
	if path == "" {
		return nil, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open maps: %w", err)
	}
	m := &mapFile{f: f, of: r, at: map[block.Name]extent{}}
	if err := m.scan(); err != nil {
		return nil, errors.Join(notDamaged(err), f.Close())
	}
	return m, nil
}

// notDamaged is err unless it says that a file of the cache is no good, which is as if
// there were none.
func notDamaged(err error) error {
	if errors.Is(err, wire.ErrDamaged) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("read maps: %w", err)
}

// scan reads the file from its start.
func (m *mapFile) scan() error {
	b := bufio.NewReaderSize(m.f, 1<<20)
	doc, err := readRecord(b, maxRemembered)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(doc, &m.point); err != nil {
		return fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	m.end = 4 + int64(len(doc))
	for {
		node, err := readRecord(b, tree.MaxNode)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		m.at[m.of.ring.Nodes.Name(node)] = extent{m.end + 4, len(node)}
		m.end += 4 + int64(len(node))
	}
}

// readRecord reads a length and as many bytes.
func readRecord(r io.Reader, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if int64(n) > int64(limit) {
		return nil, fmt.Errorf("%w: record of %d bytes", wire.ErrDamaged, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("%w: %w", wire.ErrDamaged, err)
	}
	return b, nil
}

// load is a tree.Load.
func (m *mapFile) load(_ context.Context, name block.Name) ([]byte, error) {
	m.mu.Lock()
	e, ok := m.at[name]
	m.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%w: node %s is not kept here", wire.ErrDamaged, name)
	}
	b := make([]byte, e.length)
	if _, err := m.f.ReadAt(b, e.off); err != nil {
		return nil, fmt.Errorf("read maps: %w", err)
	}
	if m.of.ring.Nodes.Name(b) != name {
		return nil, fmt.Errorf("%w: node %s has other content", wire.ErrDamaged, name)
	}
	return b, nil
}

// holds tells whether every node is there that a parent of that root may be asked for.
func (m *mapFile) holds(ctx context.Context, root *Root) bool {
	return m != nil && tree.Inner(ctx, tree.Root(*root), m.load, func(block.Name, []byte) error { return nil }) == nil
}

// add keeps a node.
func (m *mapFile) add(name block.Name, node []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.at[name]; ok {
		return nil
	}
	b := append(binary.LittleEndian.AppendUint32(nil, uint32(len(node))), node...)
	if _, err := m.f.WriteAt(b, m.end); err != nil {
		return fmt.Errorf("keep maps: %w", err)
	}
	m.at[name] = extent{m.end + 4, len(node)}
	m.end += int64(len(b))
	return nil
}

func (m *mapFile) close() error {
	if m == nil {
		return nil
	}
	return m.f.Close()
}

// keeper is what a session keeps for the next one: the nodes that it made, in a file
// without a name, beside what is kept of the parent.
type keeper struct {
	old  *mapFile // nil: none
	made *mapFile
	path string
}

// keep begins to keep maps, when this key cannot read them from the store.
func (r *Repository) keep(vm [16]byte) (*keeper, error) {
	path := r.mapsPath(vm)
	if r.ring.CanReadMaps() || path == "" {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("keep maps: %w", err)
	}
	old, err := r.openMaps(vm)
	if err != nil {
		return nil, err
	}
	made, err := r.newMaps(filepath.Dir(path))
	if err != nil {
		return nil, errors.Join(err, old.close())
	}
	return &keeper{old: old, made: made, path: path}, nil
}

// newMaps makes an empty file that ends with the process.
func (r *Repository) newMaps(dir string) (*mapFile, error) {
	f, err := os.CreateTemp(dir, "*.tmp")
	if err != nil {
		return nil, fmt.Errorf("keep maps: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("keep maps: %w", err), f.Close())
	}
	return &mapFile{f: f, of: r, at: map[block.Name]extent{}}, nil
}

// add keeps a node that the session made.
func (k *keeper) add(name block.Name, node []byte) error {
	if k == nil {
		return nil
	}
	return k.made.add(name, node)
}

// load finds a node among those made and those kept.
func (k *keeper) load(ctx context.Context, name block.Name) ([]byte, error) {
	b, err := k.made.load(ctx, name)
	if err != nil && k.old != nil {
		b, err = k.old.load(ctx, name)
	}
	return b, err
}

// commit puts the maps of a point in place of what was kept before, durably.
func (k *keeper) commit(ctx context.Context, p *Point) (err error) {
	if k == nil {
		return nil
	}
	f, err := durable.Stage(k.path, func(f *os.File) error { return k.write(ctx, f, p) })
	if err == nil {
		err = f.Put(true)
	}
	if err != nil {
		return fmt.Errorf("keep maps: %w", err)
	}
	return nil
}

func (k *keeper) write(ctx context.Context, f *os.File, p *Point) error {
	doc, err := json.Marshal(rememberedPoint{Hash: p.Hash, Point: p.bare()})
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	record := func(b []byte) error {
		_, err := w.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...))
		return err
	}
	if err := record(doc); err != nil {
		return err
	}
	seen := map[block.Name]bool{}
	for root := range p.roots() {
		err := tree.Inner(ctx, tree.Root(root), k.load, func(name block.Name, node []byte) error {
			if seen[name] {
				return nil
			}
			seen[name] = true
			return record(node)
		})
		if err != nil {
			return err
		}
	}
	return w.Flush()
}

func (k *keeper) close() error {
	if k == nil {
		return nil
	}
	return errors.Join(k.old.close(), k.made.close())
}

// bare is the point without what no later backup needs.
func (p *Point) bare() Point {
	b := Point{ID: p.ID, VM: p.VM, Parent: p.Parent, ParentHash: p.ParentHash, SignedBy: p.SignedBy, Deduplicated: p.Deduplicated, Removed: p.Removed, Frozen: p.Frozen, Hash: p.Hash}
	for _, d := range p.Disks {
		b.Disks = append(b.Disks, Disk{Root: d.Root, Encrypted: d.Encrypted, Tracking: d.Tracking})
		b.Disks[len(b.Disks)-1].Name = d.Name
	}
	return b
}

// remembered is the last point of a VM that this host made, if the object that the store
// shows is that point's; else the zero Point.
func (r *Repository) remembered(object string, b []byte) (Point, error) {
	vm, err := hex.DecodeString(path.Base(path.Dir(object)))
	if err != nil || len(vm) != 16 {
		return Point{}, nil
	}
	m, err := r.openMaps([16]byte(vm))
	if err != nil || m == nil {
		return Point{}, err
	}
	defer m.close()
	p := m.point.Point
	if p.ID == "" || pointObject([16]byte(vm), p.ID) != object || m.point.Hash != Hash(sum(b)) {
		return Point{}, nil
	}
	p.Hash = m.point.Hash
	return p, checkDecoded(&p)
}
