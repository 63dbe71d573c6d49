package vmstate

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The vector of docs/format.md: a stream, and its layout as rows of an offset and 16
// bytes, rows of zeros left out. It is never rewritten.
const (
	goldenStream = "testdata/1.stream"
	goldenLayout = "testdata/1.layout"
)

func TestGolden(t *testing.T) {
	stream, err := os.ReadFile(goldenStream)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(goldenLayout)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), pack(t, stream).dump()); diff != "" {
		t.Errorf("another layout:\n%s", diff)
	}
	if !bytes.Equal(unpack(t, undump(t, want)), stream) {
		t.Error("the layout makes another stream")
	}
}

func (m *memory) dump() string {
	var b strings.Builder
	numbers := make([]int64, 0, len(m.pages))
	for n := range m.pages {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		for at := 0; at < pageSize; at += 16 {
			if row := m.pages[n][at:][:16]; !bytes.Equal(row, make([]byte, 16)) {
				fmt.Fprintf(&b, "%08x %x\n", n*pageSize+int64(at), row)
			}
		}
	}
	fmt.Fprintf(&b, "%08x\n", m.size)
	return b.String()
}

func undump(t *testing.T, text []byte) *memory {
	t.Helper()
	m := &memory{}
	rows := bufio.NewScanner(bytes.NewReader(text))
	for rows.Scan() {
		var off int64
		var row string
		n, _ := fmt.Sscanf(rows.Text(), "%x %s", &off, &row) // the last one is an offset alone
		b, err := hex.DecodeString(row)
		if err != nil || n == 0 {
			t.Fatalf("row %q: %v", rows.Text(), err)
		}
		if n == 1 {
			m.size = off
			return m
		}
		if _, err := m.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the layout has no end")
	return nil
}
