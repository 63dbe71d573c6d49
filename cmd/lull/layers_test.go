package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lull-backup/lull/"

// layer is one row of the table of allowed imports: the packages that match
// pattern may import those that match one of the others. Every package may
// import its own ancestors besides, and what cmd imports is its own affair.
type layer struct {
	pattern string
	imports string
}

// layers is the order of the house. A package that matches no row stands alone:
// it may import its ancestors only. The first row that matches counts.
func layers() []layer {
	return []layer{
		{"snapshot/wipe", "snapshot/durable"},
		{"snapshot/checkpoint", "snapshot/durable snapshot/filelock snapshot/space"},
		{"snapshot/image", "snapshot/image/* snapshot/durable snapshot/wipe"},
		{"snapshot/image/vhd", "snapshot/image/layer"},
		{"snapshot/image/vhdx", "snapshot/image/layer"},
		{"snapshot/image/vmdk", "snapshot/image/layer"},
		{"snapshot/image/merge", "snapshot/durable snapshot/image/layer snapshot/image/vhd snapshot/image/vhdx"},
		{"snapshot/qemu", "snapshot/qmp snapshot/nbd snapshot/image snapshot/vmstate snapshot/checkpoint snapshot/durable snapshot/space snapshot/wipe"},
		{"snapshot/snapshottest", "snapshot snapshot/qmp snapshot/nbd"},
		{"snapshot/guesttest", "snapshot snapshot/qmp snapshot/nbd snapshot/guesttest/record"},
		{"snapshot/libvirt", "snapshot/qemu snapshot/qmp snapshot/image snapshot/checkpoint snapshot/durable snapshot/space snapshot/wipe snapshot/libvirt/*"},
		{"snapshot/libvirt/libvirttest", "snapshot snapshot/guesttest snapshot/libvirt/rpc"},
		{"snapshot/guesttest/recorder", "snapshot/guesttest/record"},

		{"quiesce", "snapshot"},
		{"quiesce/quiescetest", "snapshot"},

		{"plugins", "quiesce snapshot plugins/proto"},
		{"plugins/sdk", "quiesce snapshot plugins/proto"},
		{"plugins/writers/internal/writertest", "plugins/plugintest quiesce/quiescetest snapshot"},
		{"plugins/writers/internal/*", "quiesce snapshot plugins/sdk"},
		{"plugins/writers/*", "quiesce snapshot plugins/sdk plugins/writers/internal/*"},
		{"plugins/plugintest", "quiesce quiesce/quiescetest snapshot plugins/sdk plugins/proto"},

		{"transport/repo", "transport/blob transport/blob/count transport/block snapshot snapshot/durable quiesce transport/repo/internal/*"},
		{"transport/repo/internal/*", "transport/blob transport/block transport/repo/internal/*"},
		{"transport", "snapshot quiesce transport/repo transport/block"},

		{"agent/schedule", ""},
		{"agent/retention", ""},
		{"agent/journal", "snapshot snapshot/durable snapshot/filelock"},
		{"agent/control", ""},
		{"agent", "config quiesce snapshot plugins transport transport/repo agent/* snapshot/durable snapshot/wipe"},
		{"config", "quiesce snapshot snapshot/space agent/schedule agent/retention"},
	}
}

// pure packages import nothing of the house, not even their ancestors.
func pure() []string {
	return []string{"agent/schedule", "agent/retention", "agent/control"}
}

// implementations are named by cmd alone, and by each other where a row of the
// table says so.
func implementations() []string {
	return []string{
		"snapshot/qemu", "snapshot/image", "snapshot/image/merge", "snapshot/libvirt",
		"transport/blob/dir", "transport/blob/s3", "transport/blob/retry", "transport/blob/lock", "transport/blob/mem",
		"plugins/writers/*",
	}
}

// keepers are the only places that may import a library, so that it can be
// replaced there.
func keepers() map[string]string {
	return map[string]string{
		"gopkg.in/yaml.v3":                "config",
		"github.com/minio/minio-go":       "transport/blob/s3",
		"github.com/robfig/cron":          "agent/schedule",
		"github.com/hashicorp/go-plugin":  "plugins plugins/sdk plugins/proto plugins/plugintest",
		"google.golang.org/grpc":          "plugins plugins/sdk plugins/proto plugins/plugintest",
		"github.com/spf13/cobra":          "cmd/*",
		"github.com/vbauerster/mpb":       "cmd/*",
		"github.com/klauspost/compress":   "transport/repo transport/repo/internal/* snapshot/image snapshot/image/vmdk cmd/lull-bench",
		"github.com/zeebo/blake3":         "transport/block transport/repo transport/repo/internal/* cmd/lull-bench",
		"golang.org/x/crypto":             "transport/repo transport/repo/internal/*",
		"github.com/coreos/go-systemd":    "agent cmd/*",
		"github.com/google/go-cmp":        "",
		"pgregory.net/rapid":              "",
		"go.uber.org/goleak":              "",
		"github.com/rogpeppe/go-internal": "",
	}
}

// listed is what the go command says of one package.
type listed struct {
	ImportPath string
	Name       string
	Imports    []string
}

// TestLayers holds the house in order: who may import whom.
func TestLayers(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.imports() {
			if !mayImport(p.path(), imp) {
				t.Errorf("%s imports %s: the table of layers does not allow it", p.path(), imp)
			}
		}
	}
}

// TestOnlyCommandsNameImplementations says the same the other way round, so that
// no new row of the table can loosen it by accident.
func TestOnlyCommandsNameImplementations(t *testing.T) {
	allowed := map[string]string{
		"snapshot/image/merge": "snapshot/image", "snapshot/qemu": "snapshot/image",
		// A domain that runs is a QEMU like any other, and one that is off is its images.
		"snapshot/libvirt": "snapshot/qemu snapshot/image",
	}
	for _, p := range packages(t) {
		if within(p.path(), "cmd") {
			continue
		}
		for _, imp := range p.imports() {
			if matchesAny(imp, implementations()) && !slices.Contains(strings.Fields(allowed[p.path()]), imp) {
				t.Errorf("%s names the implementation %s: only cmd may", p.path(), imp)
			}
		}
	}
}

// TestOnlyWireNamesImplementations keeps the wiring of lull in one file.
func TestOnlyWireNamesImplementations(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name == "wire.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if matchesAny(strings.TrimPrefix(imp, module), implementations()) {
				t.Errorf("%s names the implementation %s: only wire.go may", name, imp)
			}
		}
	}
}

// TestKitsStayInTests: what exists for tests is never part of the product.
func TestKitsStayInTests(t *testing.T) {
	for _, p := range packages(t) {
		if strings.HasSuffix(p.path(), "test") || p.path() == "cmd/lull-demo" { // the demo is no part of the product
			continue
		}
		for _, imp := range p.imports() {
			// `lull plugin verify` is the kit of plugin authors.
			if strings.HasSuffix(imp, "test") && !(p.path() == "cmd/lull" && imp == "plugins/plugintest") {
				t.Errorf("%s imports the test kit %s", p.path(), imp)
			}
		}
	}
}

// TestLibrariesHaveKeepers: a library stays where it can be replaced.
func TestLibrariesHaveKeepers(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			for lib, keeper := range keepers() {
				if !within(imp, lib) {
					continue
				}
				kit := strings.HasSuffix(p.path(), "test")
				if !kit && !matchesAny(p.path(), strings.Fields(keeper)) {
					t.Errorf("%s imports %s: it is kept to %q", p.path(), imp, keeper)
				}
			}
		}
	}
}

// TestNoSiblingCycles: no two folders of the house lean on each other, through
// whatever packages of theirs.
func TestNoSiblingCycles(t *testing.T) {
	leans := map[string]map[string]bool{}
	for _, p := range packages(t) {
		from := top(p.path())
		for _, imp := range p.imports() {
			if to := top(imp); to != from && !strings.HasSuffix(p.path(), "test") {
				if leans[from] == nil {
					leans[from] = map[string]bool{}
				}
				leans[from][to] = true
			}
		}
	}
	// config reads the values of agent's two pure packages, which import nothing
	// of the house: that leans on no agent.
	delete(leans["config"], "agent")
	for from := range leans {
		if path := cycle(leans, from, nil); path != nil {
			t.Errorf("folders lean on each other: %s", strings.Join(path, " -> "))
		}
	}
}

// TestLayerTableBites feeds the rules what they must refuse.
func TestLayerTableBites(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"snapshot/qemu", "snapshot", true},
		{"snapshot/qemu", "snapshot/image", true},
		{"snapshot/image", "snapshot/qemu", false},
		{"snapshot", "snapshot/qmp", false},
		{"snapshot", "quiesce", false},
		{"quiesce", "plugins", false},
		{"transport/repo", "transport/blob/dir", false},
		{"transport/repo/internal/index", "transport/block", true},
		{"agent", "snapshot/qemu", false},
		{"agent", "agent/journal", true},
		{"agent/retention", "agent", false},
		{"agent/newcomer", "agent/journal", false},
		{"cmd/lull", "snapshot/qemu", true},
		{"plugins/writers/filesystem", "plugins/sdk", true},
		{"plugins/writers/filesystem", "plugins/writers/postgres", false},
	} {
		if got := mayImport(c.from, c.to); got != c.want {
			t.Errorf("mayImport(%s, %s) = %v, want %v", c.from, c.to, got, c.want)
		}
	}
}

func mayImport(from, to string) bool {
	if within(from, "cmd") {
		return true
	}
	if strings.HasPrefix(from, to+"/") {
		return !slices.Contains(pure(), from)
	}
	for _, l := range layers() {
		if matches(from, l.pattern) {
			return matchesAny(to, strings.Fields(l.imports))
		}
	}
	return false
}

func matches(name, pattern string) bool {
	ok, err := path.Match(pattern, name)
	return err == nil && ok
}

func matchesAny(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matches(name, p) })
}

// within reports whether name is folder or lies in it.
func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

func top(name string) string {
	first, _, _ := strings.Cut(name, "/")
	return first
}

// cycle returns a way from the first name of path back to it.
func cycle(leans map[string]map[string]bool, at string, path []string) []string {
	if len(path) > 0 && path[0] == at {
		return append(path, at)
	}
	if slices.Contains(path, at) {
		return nil
	}
	for next := range leans[at] {
		if found := cycle(leans, next, append(path, at)); found != nil {
			return found
		}
	}
	return nil
}

func (p listed) path() string { return strings.TrimPrefix(p.ImportPath, module) }

// imports are those of the house, without the module's name.
func (p listed) imports() []string {
	var ours []string
	for _, imp := range p.Imports {
		if rest, ok := strings.CutPrefix(imp, module); ok {
			ours = append(ours, rest)
		}
	}
	return ours
}

// packages asks the go command for every package of the module.
func packages(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Imports", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list (needs Go in PATH): %v\n%s", err, stderr.String())
	}
	var all []listed
	dec := json.NewDecoder(bytes.NewReader(out))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found %d packages only", len(all))
	}
	return all
}
