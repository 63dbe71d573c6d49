package repo_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/block"
	"github.com/lull-backup/lull/transport/repo"
)

// Packs in which compressed segments follow short ones that would not shrink are
// whole. Such come of several workers: each leaves a segment that is not full.
func TestCheckMixedPacks(t *testing.T) {
	store := mem.New()
	initRepo(t, store)
	r := openRepo(t, store)
	rng := rand.NewChaCha8([32]byte{1})
	for range 16 {
		s, err := r.Begin(t.Context(), "lab/web", clock())
		if err != nil {
			t.Fatal(err)
		}
		const windows = 6
		st, err := s.Stream(t.Context(), windows*block.WindowSize, nil)
		if err != nil {
			t.Fatal(err)
		}
		var g errgroup.Group
		for w := range int64(windows) {
			data := mixed(rng, w%2 == 0)
			g.Go(func() error { return st.Put(t.Context(), w, data) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		root, err := st.Finish(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), repo.Point{VM: "lab/web", Disks: []repo.Disk{{Root: root}}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	report, err := r.Check(t.Context(), repo.CheckOptions{ReadAll: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		t.Errorf("%s: %s", p.Object, p.Err)
	}
}

// mixed is a window: zeros but for a little that does not shrink, or all text.
func mixed(rng *rand.ChaCha8, random bool) []byte {
	if random {
		data := make([]byte, block.WindowSize)
		rng.Read(data[:200<<10])
		return data
	}
	data := bytes.Repeat([]byte("text"), block.WindowSize/4)
	for at := 0; at < len(data); at += block.PageSize {
		rng.Read(data[at : at+block.PageSize/2])
	}
	return data
}
