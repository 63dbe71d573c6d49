package inguest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/lull-backup/lull/plugins/writers/internal/inguest"
)

// What others can change is not trusted: the file, its folder, one above, or where a
// link leads.
func TestTrusted(t *testing.T) {
	root := t.TempDir()
	folder := filepath.Join(root, "above", "bin")
	file, link := filepath.Join(folder, "mysqld"), filepath.Join(root, "link")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		change string
		mode   os.FileMode
		want   bool
	}{
		{file, 0o755, true}, {file, os.ModeSetuid | 0o755, true}, {file, 0o775, false}, {file, 0o757, false}, {file, os.ModeSticky | 0o777, false},
		{folder, 0o775, false}, {filepath.Dir(folder), 0o777, false}, {filepath.Dir(folder), os.ModeSticky | 0o777, true},
	} {
		if err := os.Chmod(test.change, test.mode); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{file, link} {
			err := exec.CommandContext(t.Context(), "/bin/sh", "-c", inguest.Trusted+`trusted "$1"`, "sh", path).Run()
			if (err == nil) != test.want {
				t.Errorf("%s of mode %v: trusted %s: %v", test.change, test.mode, path, err)
			}
		}
		if err := os.Chmod(test.change, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, exe := range []string{"", "/nowhere/mysqld", link} { // the last has no server's name
		if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-c", inguest.Trusted+`genuine "$1"`, "sh", exe).CombinedOutput(); err == nil {
			t.Errorf("%q is genuine: %s", exe, out)
		}
	}
}

func TestLogin(t *testing.T) {
	for _, test := range []struct {
		login inguest.Login
		data  string
		want  bool
	}{
		{"system", "/other", true}, {"owner", "/named", true}, {"owner", "/other", false}, {"", "/named", false}, {"x", "/named", false},
	} {
		if got := test.login.Allows([]string{"/named"}, test.data); got != test.want {
			t.Errorf("%q for %s: %v", test.login, test.data, got)
		}
	}
}
