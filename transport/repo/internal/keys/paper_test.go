package keys

import (
	"errors"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

func TestPaper(t *testing.T) {
	id := Repository{1}
	public, err := Master{1}.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, roles := range []Roles{Owner, Restore} {
		text, err := ring(t, Master{1}, id, roles).Paper()
		if err != nil {
			t.Fatal(err)
		}
		typed := "found in a safe\n" + strings.ToLower(strings.NewReplacer(" ", "-", "O", "0", "I", "1").Replace(text)) + "\n"
		typed = strings.ReplaceAll(typed, "\n-", "\n ")
		s, err := ParsePaper(id, []byte(typed))
		if err != nil {
			t.Fatalf("%s: %v in\n%s", roles, err, typed)
		}
		r, err := s.Ring(id, public, nil)
		if err != nil {
			t.Fatal(err)
		}
		header, _, err := ring(t, Master{1}, id).NewPackKey(nil, wire.DataPack)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.OpenPackKey(header); err != nil || r.CanBackup() {
			t.Errorf("%s: %v", roles, err)
		}
		if _, err := ParsePaper(Repository{2}, []byte(text)); !errors.Is(err, ErrPaper) {
			t.Errorf("another repository's: %v", err)
		}
		slip := []byte(text)
		slip[6] ^= 1
		if _, err := ParsePaper(id, slip); !errors.Is(err, ErrPaper) || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("a slip in line 1: %v", err)
		}
		_, rest, _ := strings.Cut(text, "\n")
		if _, err := ParsePaper(id, []byte(rest)); !errors.Is(err, ErrPaper) {
			t.Errorf("a line is missing: %v", err)
		}
	}
	if _, err := ring(t, Master{1}, id, Backup).Paper(); !errors.Is(err, ErrRole) {
		t.Errorf("paper of a key that only backs up: %v", err)
	}
}

func FuzzPaper(f *testing.F) {
	text, err := ring(f, Master{1}, Repository{1}, Restore).Paper()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text))
	f.Add([]byte(" 1: AAAA\n2:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ParsePaper(Repository{1}, b)
		if err != nil && !errors.Is(err, ErrPaper) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}
