package repo

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/count"
	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// A few bytes do not become megabytes, and what lull writes is read.
func TestManifestsGrowByAMultipleOnly(t *testing.T) {
	bomb, err := compress(append([]byte(`{"id":"`), bytes.Repeat([]byte("x"), 16<<20)...))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := decompress(bomb); err == nil {
		t.Errorf("%d bytes became %d", len(bomb), len(b))
	}
	if _, err := encodeDocument(Point{ID: "x-x", VM: strings.Repeat("x", 4<<20)}); err == nil {
		t.Error("wrote what nobody reads")
	}
	p := Point{ID: "20261121T013000Z-00000000", VM: "lab/web"}
	for n := range maxHeads {
		h := sum([]byte{byte(n), byte(n >> 8)})
		p.Heads = append(p.Heads, Head{fmt.Sprintf("%x/20261121t013000z-00000000", h[:16]), h})
	}
	packed, err := encodeDocument(&p)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decodePoint(packed); err != nil || len(back.Heads) != maxHeads {
		t.Errorf("%d heads, %v", len(back.Heads), err)
	}
	p.Heads = append(p.Heads, Head{})
	if err := checkDecoded(&p); !errors.Is(err, wire.ErrDamaged) {
		t.Errorf("%v, want %v", err, wire.ErrDamaged)
	}
}

// Points that were never made cost a bounded number of requests, whoever names them.
func TestHeadsOfNothingAreAskedForOnce(t *testing.T) {
	store := count.New(mem.New())
	c := chain{r: &Repository{store: store}, prefix: pointPrefix, buried: buried{}, followed: map[string]bool{}, reasons: map[string]error{}}
	for n := range 5 * maxAsked {
		if _, err := c.want(t.Context(), Head{Point: fmt.Sprintf("vm/%d", n%(2*maxAsked)), Hash: Hash{1}}, "somebody names it"); err != nil {
			t.Fatal(err)
		}
	}
	if asked := store.Totals().Requests; asked > maxAsked || len(c.problems()) != maxAsked+1 {
		t.Errorf("%d requests, %d problems", asked, len(c.problems()))
	}
}
