package durable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrVersion: a document is of a version that this program does not know.
var ErrVersion = errors.New("version not known, a newer lull may have written it")

// Encode makes a document of v: one line of kind, version and SHA-256 of the rest, then JSON.
func Encode(kind string, version int, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s %d %s\n%s\n", kind, version, hex.EncodeToString(sum[:]), body), nil
}

// Decode reads a document of a kind into v. Any error says that it is damaged, or another,
// but for ErrVersion.
func Decode(kind string, version int, data []byte, v any) error {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	words := strings.Split(string(head), " ")
	if len(words) != 3 || words[0] != kind {
		return errors.New("the first line is not that of such a file")
	}
	if words[1] != strconv.Itoa(version) {
		return fmt.Errorf("version %.20q: %w", words[1], ErrVersion)
	}
	body = bytes.TrimSuffix(body, []byte("\n"))
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != words[2] {
		return errors.New("the checksum does not fit")
	}
	return json.Unmarshal(body, v)
}
