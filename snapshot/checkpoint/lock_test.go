package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lull-backup/lull/snapshot"
)

// TestLock: a tree has one who changes it, of whom the others are told.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trees", "web.json")
	for range 2 {
		unlock, err := Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := Lock(filepath.Join(filepath.Dir(path), "db.json")); err != nil {
			t.Errorf("another tree: %v", err)
		} else {
			second()
		}
		_, err = Lock(path)
		var hinted *snapshot.Hinted
		if !errors.Is(err, snapshot.ErrBusy) || !errors.As(err, &hinted) || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
			t.Errorf("a second time: %v", err)
		}
		unlock()
	}
	if err := os.WriteFile(path+".lock", []byte("-1 or what"), 0o600); err != nil {
		t.Fatal(err)
	}
	unlock, err := Lock(path)
	if err != nil {
		t.Fatalf("a lock that a killed process has left: %v", err)
	}
	unlock()
}
