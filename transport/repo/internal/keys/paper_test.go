package keys

import (
	"bytes"
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
		other := public
		other.Root = append(bytes.Clone(public.Root[:31]), public.Root[31]^1)
		if _, err := s.Ring(id, other, nil); !errors.Is(err, wire.ErrForged) {
			t.Errorf("%s: a store with a root key of its own: %v", roles, err)
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

// What was printed by earlier versions, without the root key, opens for ever.
func TestPaperOfBefore(t *testing.T) {
	id := Repository{1}
	public, err := Master{1}.Public(id)
	if err != nil {
		t.Fatal(err)
	}
	header, _, err := ring(t, Master{1}, id).NewPackKey(nil, wire.DataPack)
	if err != nil {
		t.Fatal(err)
	}
	for roles, text := range map[Roles]string{Owner: ownerPaper2, Restore: restorePaper2} {
		s, err := ParsePaper(id, []byte(text))
		if err != nil || s.Roles != roles {
			t.Fatalf("%s: %+v, %v", roles, s, err)
		}
		r, err := s.Ring(id, public, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.OpenPackKey(header); err != nil {
			t.Errorf("%s: %v", roles, err)
		}
	}
}

// Paper keys of version 2, of the master secret and the repository that begin with 1.
const (
	ownerPaper2 = `
 1: AIAQ AAAA AAAA AAAA AAAA AAAA AAAA QAAA NS
 2: AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA LK
 3: AAAA AAAA AAAA AAAA AEAA AAAA AAAA AAAA 7O
 4: AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA W4
 5: AAAA DK
`
	restorePaper2 = `
 1: AIAQ AAAA AAAA AAAA AAAA AAAA AAAA EAAA DS
 2: AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA LK
 3: AAAA AAAA AAAA AAAA E7IE M3AH 4NL5 2YQU FZ
 4: D7HU BOC5 NCYP RVXN JJJ4 BUF4 Q3M3 CLW6 WK
 5: 3LFQ HQ7S MA63 G5T4 T5A7 LAOJ WV4V A4NK 7Y
 6: PWH4 NBVQ LV3H EETD CA6O NHDS XQH5 RALE GZ
 7: MCU7 D253 XUV4 EHVM 6LK4 YGJG 75YA YJ3L JR
 8: 6DFR 6M6X YU RJ
`
)

func FuzzPaper(f *testing.F) {
	text, err := ring(f, Master{1}, Repository{1}, Restore).Paper()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(text))
	f.Add([]byte(restorePaper2))
	f.Add([]byte(" 1: AAAA\n2:"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := ParsePaper(Repository{1}, b)
		if err != nil && !errors.Is(err, ErrPaper) && !errors.Is(err, wire.ErrNewer) {
			t.Error(err)
		}
	})
}
