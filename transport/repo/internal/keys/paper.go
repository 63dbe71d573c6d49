package keys

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/lull-backup/lull/transport/repo/internal/wire"
)

// ErrPaper: a text that is no paper key, or was mistyped.
var ErrPaper = errors.New("no paper key")

const (
	// paperVersion is what is written; paperRootless, which has no root key, is read.
	paperVersion  = 3
	paperRootless = 2
	// paperLine is how many bytes a line holds, before its two check characters.
	paperLine  = 20
	paperGroup = 4
	paperCheck = 2
	// maxPaper bounds the text in bytes.
	maxPaper = 64 << 10
)

func paperCode() *base32.Encoding { return base32.StdEncoding.WithPadding(base32.NoPadding) }

// Paper is what this key can open, as text to print: with it and the store everything can
// be read and proven, and by an owner new keys be made. A key that only backs up has nothing
// to save.
func (r *Ring) Paper() (string, error) {
	s := Secrets{Roles: r.roles & (Owner | Restore), master: r.master, shared: r.shared}
	if s.Roles == 0 || !r.format.Signed() {
		return "", fmt.Errorf("make paper key: %w", ErrRole)
	}
	for n := 1; n <= r.Epochs() && !s.Roles.Has(Owner); n++ {
		e, err := r.epochOf(uint16(n))
		if err != nil {
			return "", err
		}
		if e.data.private == nil || e.meta.private == nil {
			break
		}
		s.epochs = append(s.epochs, epochSecrets{e.data.seed, e.meta.seed})
	}
	b := append([]byte{paperVersion}, r.repository[:]...)
	b = append(b, r.root...)
	return paperText(append(b, s.bundle()...)), nil
}

// paperText writes numbered lines of groups. The last two characters of each line are
// made of the others and the line's number, so that a slip is found where it is.
func paperText(b []byte) string {
	var text strings.Builder
	for n := 1; len(b) > 0; n++ {
		piece := b[:min(len(b), paperLine)]
		b = b[len(piece):]
		fmt.Fprintf(&text, "%2d: ", n)
		line := paperCode().EncodeToString(piece)
		for at := 0; at < len(line); at += paperGroup {
			text.WriteString(line[at:min(at+paperGroup, len(line))] + " ")
		}
		text.WriteString(lineCheck(n, piece) + "\n")
	}
	return text.String()
}

// lineCheck is two characters over a line.
func lineCheck(n int, piece []byte) string {
	h := blake3.Sum256(append([]byte{byte(n)}, piece...))
	return paperCode().EncodeToString(h[:2])[:paperCheck]
}

// ParsePaper reads what Paper wrote, as typed by somebody: case, spaces, dashes and all
// lines without a number and a colon do not matter, 0, 1 and 8 stand for O, I and B.
func ParsePaper(id Repository, text []byte) (*Secrets, error) {
	if len(text) > maxPaper {
		return nil, fmt.Errorf("%w: %d bytes", ErrPaper, len(text))
	}
	var b []byte
	n := 0
	for line := range bytes.Lines(text) {
		number, rest, found := strings.Cut(string(line), ":")
		if _, err := fmt.Sscanf(number+"\n", "%d\n", new(int)); err != nil || !found {
			continue
		}
		n++
		piece, err := paperPiece(n, strings.TrimSpace(number), rest)
		if err != nil {
			return nil, err
		}
		b = append(b, piece...)
	}
	return parsePaper(id, b)
}

// parsePaper reads the bytes of a paper key.
func parsePaper(id Repository, b []byte) (*Secrets, error) {
	if len(b) < 1+len(id) || b[0] < paperRootless {
		return nil, fmt.Errorf("%w: no numbered lines", ErrPaper)
	}
	if b[0] > paperVersion {
		return nil, fmt.Errorf("%w: paper key of version %d", wire.ErrNewer, b[0])
	}
	of, bundle := b[1:1+len(id)], b[1+len(id):]
	if !bytes.Equal(of, id[:]) {
		return nil, fmt.Errorf("%w of this repository: it is of %x", ErrPaper, of)
	}
	var root ed25519.PublicKey
	if b[0] != paperRootless {
		n := min(RootSize, len(bundle))
		root, bundle = bundle[:n], bundle[n:]
	}
	s, err := parseBundle(bundle)
	if errors.Is(err, wire.ErrDamaged) {
		err = fmt.Errorf("%w: lines are missing", ErrPaper)
	}
	if err != nil {
		return nil, err
	}
	s.root = root
	return s, nil
}

func paperPiece(n int, number, line string) ([]byte, error) {
	if number != fmt.Sprint(n) {
		return nil, fmt.Errorf("%w: line %d is missing", ErrPaper, n)
	}
	line = strings.ToUpper(strings.Join(strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n-", r) }), ""))
	line = strings.NewReplacer("0", "O", "1", "I", "8", "B").Replace(line)
	at := max(0, len(line)-paperCheck)
	piece, err := paperCode().DecodeString(line[:at])
	if err != nil || lineCheck(n, piece) != line[at:] {
		return nil, fmt.Errorf("%w: line %d is mistyped", ErrPaper, n)
	}
	return piece, nil
}
