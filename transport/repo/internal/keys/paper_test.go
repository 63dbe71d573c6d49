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

// What is printed now is what was printed when the version began.
func TestPaperIsGolden(t *testing.T) {
	for roles, want := range map[Roles]string{Owner: ownerPaper3, Restore: restorePaper3} {
		text, err := ring(t, Master{1}, Repository{1}, roles).Paper()
		if err != nil || "\n"+text != want {
			t.Errorf("%s: %v, paper key\n%s", roles, err, text)
		}
	}
}

// What was printed opens for ever, that of earlier versions too, without the root key.
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
	for _, c := range []struct {
		roles Roles
		text  string
	}{{Owner, ownerPaper2}, {Restore, restorePaper2}, {Owner, ownerPaper3}, {Restore, restorePaper3}} {
		s, err := ParsePaper(id, []byte(c.text))
		if err != nil || s.Roles != c.roles || s.Roles.Has(Owner) && s.master != (Master{1}) {
			t.Fatalf("%s: %+v, %v", c.roles, s, err)
		}
		r, err := s.Ring(id, public, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.OpenPackKey(header); err != nil {
			t.Errorf("%s: %v in%s", c.roles, err, c.text)
		}
	}
}

// Paper keys of versions 2 and 3, of the master secret and the repository that begin with 1.
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
	ownerPaper3 = `
 1: AMAQ AAAA AAAA AAAA AAAA AAAA AAAB OOPX YK
 2: Z2LG OI63 W7XT XDUN 6J4L NLTI 4JQO UWSZ IZ
 3: X6PT LCEC 2SSC F3AI AAAA AAAA AAAA AAAA 3J
 4: AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA W4
 5: AAAA CAAA AAAA AAAA AAAA AAAA AAAA AAAA EY
 6: AAAA AAAA AAAA AAAA AAAA AAA VG
`
	restorePaper3 = `
 1: AMAQ AAAA AAAA AAAA AAAA AAAA AAAB OOPX YK
 2: Z2LG OI63 W7XT XDUN 6J4L NLTI 4JQO UWSZ IZ
 3: X6PT LCEC 2SSC F3AC AAAA AAAA AAAA AAAA 7A
 4: AAAA AAAA AAAA AAAA AAAA AAAA AAAA AAAA W4
 5: AAAC PUCG NQD6 GV65 MIKB 7T2A XBOW RMHY VY
 6: 23WU UU6A 2C6I NWNR F3PN VSYD YPZG APNT UZ
 7: OZ6J 6QPV QHE3 K6KQ OGVH 3D6G Q2YF 25TS TQ
 8: CJRR APHG TRZL YD6Y QFSG BKPR 5O53 2K6C O2
 9: D2WP FVOM DETP 64AM E5V7 BSY7 GPL4 K QO
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
