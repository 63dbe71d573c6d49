package repo_test

import (
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/lull-backup/lull/transport/blob/mem"
	"github.com/lull-backup/lull/transport/repo"
)

// The names of all fields are part of the format: those in the golden repositories, and those
// that are written now, or would be. Who renames one in the writer and the reader reads his own
// repositories, and no others. testdata/v2-fields.txt only ever gains lines.
func TestGoldenFields(t *testing.T) {
	golden, now := map[string]bool{}, map[string]bool{}
	for _, dir := range []string{goldenDir2, goldenRemoved, goldenLife} {
		addFields(t, golden, loadGolden(t, dir))
	}
	plain, removed := mem.New(), mem.New()
	writeGolden(t, plain)
	writeGoldenRemoved(t, removed)
	for _, store := range []*mem.Store{plain, removed, writeGoldenLife(t)} {
		addFields(t, now, store)
	}
	for kind, of := range repo.JSONTypes() {
		addTypeFields(now, kind, of)
	}
	for field := range golden {
		if !now[field] {
			t.Errorf("%s of golden repositories is not known any more", field)
		}
	}
	wantGolden(t, "v2-fields.txt", strings.Join(slices.Sorted(maps.Keys(now)), "\n")+"\n")
}

// addFields adds the names of all fields in a repository, behind what they are in.
func addFields(t *testing.T, all map[string]bool, store *mem.Store) {
	t.Helper()
	r := openRepo(t, store)
	for _, name := range store.Names() {
		docs, err := repo.OpenJSON(r, name, bytesOf(t, store, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for kind, doc := range docs {
			var v any
			if err := json.Unmarshal(doc, &v); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			walkFields(all, kind, v)
		}
	}
}

func walkFields(all map[string]bool, in string, v any) {
	switch v := v.(type) {
	case []any:
		for _, v := range v {
			walkFields(all, in, v)
		}
	case map[string]any:
		for name, v := range v {
			all[in+"."+name] = true
			walkFields(all, in+"."+name, v)
		}
	}
}

// addTypeFields adds those that a type may have, as encoding/json names them.
func addTypeFields(all map[string]bool, in string, of reflect.Type) {
	for of.Kind() == reflect.Slice || of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || of.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return
	}
	for _, f := range reflect.VisibleFields(of) { // those of embedded structs too
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || f.Anonymous || name == "-" {
			continue
		}
		all[in+"."+name] = true
		addTypeFields(all, in+"."+name, f.Type)
	}
}
