package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/durable"
)

// content is what a folder holds, by name.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(b)
	}
	return files
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func TestPut(t *testing.T) {
	for name, c := range map[string]struct {
		there     string
		overwrite bool
		want      map[string]string
		err       error
	}{
		"new":                       {want: map[string]string{"a": "new"}},
		"new, where one may be":     {overwrite: true, want: map[string]string{"a": "new"}},
		"replaced":                  {there: "old", overwrite: true, want: map[string]string{"a": "new"}},
		"refused as there is one":   {there: "old", want: map[string]string{"a": "old"}, err: fs.ErrExist},
		"refused, and nothing left": {there: " ", want: map[string]string{"a": " "}, err: fs.ErrExist},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "a")
			if c.there != "" {
				write(t, path, c.there)
			}
			if err := durable.Put(path, []byte("new"), 0o640, c.overwrite); !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if diff := cmp.Diff(c.want, content(t, dir)); diff != "" {
				t.Error(diff)
			}
			if c.err == nil && mode(t, path) != 0o640 {
				t.Errorf("mode %v", mode(t, path))
			}
		})
	}
}

// TestPutReplacesLinks: a link is replaced, and what it leads to stays.
func TestPutReplacesLinks(t *testing.T) {
	dir := t.TempDir()
	other, path := filepath.Join(t.TempDir(), "other"), filepath.Join(dir, "a")
	write(t, other, "theirs")
	if err := os.Symlink(other, path); err != nil {
		t.Fatal(err)
	}
	if err := durable.Put(path, nil, 0o600, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a link is no free name: %v", err)
	}
	if err := durable.Put(path, []byte("new"), 0o600, true); err != nil {
		t.Fatal(err)
	}
	if !mode(t, path).IsRegular() || content(t, filepath.Dir(other))["other"] != "theirs" {
		t.Error("the link was followed")
	}
}

func TestPutNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "a")
	err := durable.Put(path, nil, 0o600, true)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path+":") {
		t.Errorf("error %v", err)
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := durable.Put(long, nil, 0o600, false); err != nil {
		t.Errorf("a name as long as may be: %v", err)
	}
}

// TestStage: of several that wait for one name each has its own file, and one that fails or
// is discarded leaves nothing.
func TestStage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	stage := func(text string) *durable.Staged {
		s, err := durable.Stage(path, func(f *os.File) error {
			_, err := f.WriteString(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, second, third := stage("first"), stage("second"), stage("third")
	if _, there := content(t, dir)["a"]; there {
		t.Error("a file that waits has its name")
	}
	if err := errors.Join(second.Put(false), second.Discard(), third.Discard()); err != nil {
		t.Fatal(err)
	}
	if err := first.Put(false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a taken name: %v", err)
	}
	failed := errors.New("failed")
	if _, err := durable.Stage(path, func(*os.File) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("error %v", err)
	}
	if diff := cmp.Diff(map[string]string{"a": "second"}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
}

func TestRename(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "one")
	write(t, b, "two")
	if err := durable.Rename(a, b, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a taken name: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"a": "one", "b": "two"}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := durable.Rename(a, b, true); err != nil {
		t.Fatal(err)
	}
	if err := durable.Rename(b, a, false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"a": "one"}, content(t, dir)); diff != "" {
		t.Error(diff)
	}
	if err := durable.Rename(b, a, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing to rename: %v", err)
	}
}

// TestWriteFile: whatever is at the name is removed first, and nothing is written through it.
func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(t.TempDir(), "other")
	for name, leave := range map[string]func(path string) error{
		"nothing": func(string) error { return nil },
		"file":    func(path string) error { return os.WriteFile(path, []byte("longer than new"), 0o644) },
		"symlink": func(path string) error { return os.Symlink(other, path) },
		"link":    func(path string) error { return os.Link(other, path) },
	} {
		write(t, other, "theirs")
		path := filepath.Join(dir, name)
		if err := leave(path); err != nil {
			t.Fatal(err)
		}
		if err := durable.WriteFile(path, []byte("new")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := content(t, dir)[name]; got != "new" || mode(t, path) != 0o600 {
			t.Errorf("%s: %q, mode %v", name, got, mode(t, path))
		}
		if got := content(t, filepath.Dir(other))["other"]; got != "theirs" {
			t.Errorf("%s: the other file is %q", name, got)
		}
	}
}

func TestSyncFolder(t *testing.T) {
	if err := durable.SyncFolder(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := durable.SyncFolder(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

func TestSyncFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if err := durable.SyncFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write(t, path, "x")
	if err := durable.SyncFile(path); err != nil {
		t.Error(err)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	if _, err := durable.ReadFile(path, 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write(t, path, "12345")
	if b, err := durable.ReadFile(path, 5); err != nil || string(b) != "12345" {
		t.Errorf("%q, %v", b, err)
	}
	b, err := durable.ReadFile(path, 4)
	if !errors.Is(err, durable.ErrTooLong) || !errors.Is(err, snapshot.ErrUnsupported) || b != nil {
		t.Errorf("%q, %v", b, err)
	}
}

type note struct{ Text string }

func TestDocument(t *testing.T) {
	data, err := durable.Encode("lull-note", 1, note{"x"})
	if err != nil {
		t.Fatal(err)
	}
	// There are such files: what they look like does not change.
	const golden = "lull-note 1 cde5d7c39ab734ae91a3739ffecc37976fbce4925c830e377aecbce74cd5bca6\n{\"Text\":\"x\"}\n"
	if string(data) != golden {
		t.Errorf("%q", data)
	}
	for name, c := range map[string]struct {
		data    string
		ok      bool
		version bool
	}{
		"whole":                 {golden, true, false},
		"without its last line": {strings.TrimSuffix(golden, "\n"), true, false},
		"empty":                 {"", false, false},
		"cut off":               {golden[:len(golden)-3], false, false},
		"longer":                {golden + "\n", false, false},
		"changed":               {strings.Replace(golden, `"x"`, `"y"`, 1), false, false},
		"of another kind":       {strings.Replace(golden, "lull-note", "lull-run", 1), false, false},
		"of a later version":    {strings.Replace(golden, " 1 ", " 2 ", 1), false, true},
		"of no version":         {strings.Replace(golden, " 1 ", " 01 ", 1), false, true},
	} {
		var got note
		err := durable.Decode("lull-note", 1, []byte(c.data), &got)
		if (err == nil) != c.ok || errors.Is(err, durable.ErrVersion) != c.version || c.ok && got.Text != "x" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("lull-note 1 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\n{}\n"))
	f.Add([]byte("lull-note 1 x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var n note
		if durable.Decode("lull-note", 1, data, &n) != nil {
			return
		}
		again, err := durable.Encode("lull-note", 1, n)
		if err != nil || durable.Decode("lull-note", 1, again, &n) != nil {
			t.Errorf("%q reads back no more: %v", again, err)
		}
	})
}
