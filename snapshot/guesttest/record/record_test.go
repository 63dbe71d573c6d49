package record

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const testCapacity = 16

// write makes two logs of count records and returns their folders.
func write(t *testing.T, count int) []string {
	t.Helper()
	dirs := []string{t.TempDir(), t.TempDir()}
	appendRecords(t, dirs, count)
	return dirs
}

func appendRecords(t *testing.T, dirs []string, count int) {
	t.Helper()
	w, _, err := Open(dirs, testCapacity)
	if err != nil {
		t.Fatal(err)
	}
	for range count {
		if _, err := w.Append(time.Unix(1700000000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, dirs []string) Report {
	t.Helper()
	r, err := Verify(dirs, testCapacity)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerifyWholeLog(t *testing.T) {
	for _, count := range []int{0, 1, testCapacity - 1, testCapacity, testCapacity + 1, 5*testCapacity + 3} {
		r := verify(t, write(t, count))
		if err := r.Err(); err != nil {
			t.Errorf("%d records: %v", count, err)
		}
		if r.Last() != uint64(count) {
			t.Errorf("%d records: last is %d", count, r.Last())
		}
	}
}

func TestContinueLog(t *testing.T) {
	dirs := write(t, 4)
	appendRecords(t, dirs, 3)
	want := LogReport{
		Path: filepath.Join(dirs[0], FileName), Records: 7, First: 1, Last: 7,
		Boots: []Boot{{Boot: 1, First: 1, Last: 4}, {Boot: 2, First: 5, Last: 7}},
	}
	r := verify(t, dirs)
	if diff := cmp.Diff(want, r.Logs[0]); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
}

// damage changes the log of one disk and expects Verify to say want.
func damage(t *testing.T, records int, disk int, change func(t *testing.T, path string), want string) {
	t.Helper()
	dirs := write(t, records)
	change(t, filepath.Join(dirs[disk], FileName))
	r := verify(t, dirs)
	if got := strings.Join(r.Problems, "; "); !strings.Contains(got, want) || (want == "" && got != "") {
		t.Errorf("problems are %q, want %q", got, want)
	}
}

func patch(slot int64, b []byte) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b, slot*RecordSize+100); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(size int64) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		t.Helper()
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyFindsDamage(t *testing.T) {
	t.Run("torn in the middle", func(t *testing.T) {
		damage(t, 9, 1, patch(4, []byte("torn")), "slot 4 is torn")
	})
	t.Run("gap in the middle", func(t *testing.T) {
		damage(t, 9, 0, patch(4, make([]byte, 64)), "records 5 to 5 are missing")
	})
	t.Run("torn while written is allowed", func(t *testing.T) {
		damage(t, 9, 1, truncate(8*RecordSize+77), "")
	})
	t.Run("one disk behind by two", func(t *testing.T) {
		damage(t, 9, 1, truncate(7*RecordSize), "not one instant")
	})
	t.Run("second disk ahead", func(t *testing.T) {
		damage(t, 9, 0, truncate(8*RecordSize), "not one instant")
	})
	t.Run("torn in a full ring", func(t *testing.T) {
		damage(t, 5*testCapacity, 0, patch(7, []byte("torn")), "slot 7 is torn")
	})
	t.Run("lost end of a full ring", func(t *testing.T) {
		damage(t, 5*testCapacity+8, 0, truncate(10*RecordSize), "are missing")
	})
	t.Run("record at the wrong place", func(t *testing.T) {
		damage(t, 9, 0, func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			copy(b[2*RecordSize:], b[5*RecordSize:6*RecordSize])
			if err := os.WriteFile(path, b, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "record 6 is in slot 2")
	})
}

func FuzzDecode(f *testing.F) {
	p := make([]byte, RecordSize)
	Record{Number: 7, Time: time.Unix(1, 0), Boot: 2}.encode(p)
	f.Add(p, 3)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		p := make([]byte, RecordSize)
		copy(p, b)
		r, err := decode(p)
		if err != nil || at < 0 || at >= RecordSize {
			return
		}
		p[at] ^= 1
		if again, err := decode(p); err == nil {
			t.Errorf("a flipped bit at %d went unnoticed in %+v: %+v", at, r, again)
		}
	})
}
