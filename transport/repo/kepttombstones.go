package repo

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"sync"

	"github.com/lull-backup/lull/transport/repo/internal/keys"
)

// tombstones are those that were read. They never change, and only grow in number: so a host
// keeps them in a file of its cache, too, beside what it has seen, and reads each from the
// store once. The file is a line for each, of which none counts that is not as it was written.
// Which of them there are the store says each time; that they are good is looked at each time
// by what is known of removed keys.
type tombstones struct {
	path string // empty: they end with the process

	mu     sync.Mutex
	loaded bool
	read   map[string]keptTombstone // by object
	fresh  []keptTombstone          // that are not in the file
}

// keptTombstone is one line, behind the hash of it.
type keptTombstone struct {
	Object string      `json:"object"`
	Signer keys.Signer `json:"signer"`
	Doc    tombstone   `json:"doc"`
}

// maxKept bounds the file in bytes: one that is larger is begun anew.
const maxKept = 256 << 20

func (t *tombstones) get(object string) (keptTombstone, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.read[object]
	return k, ok
}

func (t *tombstones) put(k keptTombstone) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.read == nil {
		t.read = map[string]keptTombstone{}
	}
	if _, kept := t.read[k.Object]; !kept {
		t.fresh = append(t.fresh, k)
	}
	t.read[k.Object] = k
}

// load reads the file, once.
func (t *tombstones) load() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.loaded || t.path == "" {
		return
	}
	t.loaded = true
	info, err := os.Stat(t.path)
	if err != nil || info.Size() > maxKept {
		_ = os.Remove(t.path)
		return
	}
	b, err := os.ReadFile(t.path)
	if err != nil {
		return
	}
	if t.read == nil {
		t.read = map[string]keptTombstone{}
	}
	for line := range bytes.Lines(b) {
		if k, ok := parseKept(line); ok {
			t.read[k.Object] = k
		}
	}
}

// parseKept reads a line: one that another process is writing, or that a crash has cut off or
// a disk spoiled, is none.
func parseKept(line []byte) (k keptTombstone, ok bool) {
	sumHex, doc, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if h := sum(doc); !found || string(sumHex) != hex.EncodeToString(h[:]) {
		return k, false
	}
	return k, json.Unmarshal(doc, &k) == nil
}

// save adds to the file what is not in it. Where it cannot be written, as on a full disk,
// tombstones are read once more by the next process. Two processes may add the same.
func (t *tombstones) save() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" || len(t.fresh) == 0 {
		return
	}
	var lines bytes.Buffer
	lines.WriteByte('\n') // ends what a crash has cut off
	for _, k := range t.fresh {
		doc, err := json.Marshal(k)
		if err != nil {
			return
		}
		h := sum(doc)
		lines.WriteString(hex.EncodeToString(h[:]))
		lines.WriteByte(' ')
		lines.Write(doc)
		lines.WriteByte('\n')
	}
	t.fresh = nil
	f, err := os.OpenFile(t.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	_, _ = f.Write(lines.Bytes())
	_ = f.Close()
}
