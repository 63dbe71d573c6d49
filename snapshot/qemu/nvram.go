package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
)

// The firmware's variables are a file that the guest writes to through QEMU, and no
// disk. To freeze it in the transaction would put a delta on the flash chip, for the
// sake of a few bytes that seldom change. So Take reads the file right before and
// right after its transaction: if both are the same, then so was what lay between, and
// it is that of the instant. (Firmware appends to its variables; no write comes back
// to what was there a millisecond ago.) If they differ, the file is read once more when
// it is asked for, and whoever asks is told.

const (
	// maxHeld bounds a file that is read in the freeze window, in bytes: 64 MiB,
	// which QEMU's own firmware for ARM has, are read within some 10 ms.
	maxHeld = 64 << 20
	// steadyTries and steadyPause bound the wait for a file to stand still.
	steadyTries = 50
	steadyPause = 20 * time.Millisecond
)

// held is the firmware's variables of a plan, by path, as they were at Take.
type held map[string][]byte

// holdVariables reads the files that the guest can write to. One that cannot be read
// is not held: whoever reads it later says why.
func holdVariables(p snapshot.Plan) held {
	h := held{}
	for _, f := range p.Files {
		if !f.Role.Written() {
			continue
		}
		if b, err := durable.ReadFile(f.Path, maxHeld); err == nil {
			h[f.Path] = b
		}
	}
	return h
}

// unmoved drops the files that are not the same any more.
func (h held) unmoved() {
	for path, was := range h {
		if same, err := holds(path, was); err != nil || !same {
			delete(h, path)
		}
	}
}

// holds tells whether a file holds these bytes and no others.
func holds(path string, want []byte) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	buf := make([]byte, min(len(want)+1, 256<<10))
	for {
		n, err := f.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return false, nil
		}
		want = want[n:]
		if errors.Is(err, io.EOF) {
			return len(want) == 0, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// steady reads a file that a guest may be writing to: until it stands still.
func steady(ctx context.Context, path string) ([]byte, error) {
	tick := time.NewTicker(steadyPause)
	defer tick.Stop()
	for range steadyTries {
		b, err := durable.ReadFile(path, snapshot.MaxFileSize)
		if err != nil {
			return nil, err
		}
		if same, err := holds(path, b); err != nil || same {
			return b, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nil, fmt.Errorf("%s is written to all the time: %w", path, snapshot.ErrBusy)
}

// keep notes the variables of a plan until its Merge; nil forgets them.
func (h *Host) keep(p snapshot.Plan, v held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v == nil {
		delete(h.variables, heldKey(p))
	} else {
		h.variables[heldKey(p)] = v
	}
}

func (h *Host) kept(p snapshot.Plan) held {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.variables[heldKey(p)]
}

func heldKey(p snapshot.Plan) string { return p.Run + "/" + p.VM }
