package s3

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// However many versions a thief lays on top of an object, he hides neither it nor others.
func TestManyVersionsHideNothing(t *testing.T) {
	list := new(strings.Builder)
	list.WriteString("<ListVersionsResult><Name>vms</Name><IsTruncated>false</IsTruncated>")
	version := func(kind, key string, n int, latest bool) {
		fmt.Fprintf(list, `<%s><Key>%s</Key><VersionId>v%d</VersionId><IsLatest>%v</IsLatest><LastModified>2026-11-21T%02d:00:00.000Z</LastModified><ETag>"%d"</ETag><Size>%d</Size></%[1]s>`,
			kind, key, n, latest, min(n, 23), n, n)
	}
	for n := 3000; n > 0; n-- {
		version("Version", "points/vm/many", n, n == 3000)
	}
	version("DeleteMarker", "points/vm/other", 9, true)
	version("Version", "points/vm/other", 8, false)
	list.WriteString("</ListVersionsResult>")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case q.Has("versioning"):
			fmt.Fprint(w, "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
		case q.Has("versions"):
			fmt.Fprint(w, list)
		default:
			w.WriteHeader(http.StatusNotImplemented)
		}
	}))
	defer server.Close()
	credentials := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(credentials, []byte("[default]\naws_access_key_id = a\naws_secret_access_key = b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, Config{Endpoint: server.URL, Bucket: "vms", CredentialsFile: credentials})
	found := map[string]blob.Hidden{}
	err := s.Hidden(t.Context(), "", func(h blob.Hidden) error {
		found[h.Name] = h
		return nil
	})
	at := time.Date(2026, 11, 21, 1, 0, 0, 0, time.UTC)
	many, other := found["points/vm/many"], found["points/vm/other"]
	if err != nil || len(found) != 2 || many.Deleted || many.Size != 1 || !many.Created.Equal(at) || !other.Deleted || other.Size != 8 {
		t.Errorf("%+v, %v", found, err)
	}
}
