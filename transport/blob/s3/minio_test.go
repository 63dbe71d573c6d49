//go:build minio

package s3

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/blobtest"
	"github.com/lull-backup/lull/transport/blob/probe"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

// TestMinIO is a second opinion on all that versitygw says. See s3test.StartMinIO.
func TestMinIO(t *testing.T) {
	for what, o := range map[string]s3test.Options{"Plain": {}, "Locks": {Locks: true}} {
		t.Run(what, func(t *testing.T) {
			server := s3test.StartMinIO(t, o)
			var n atomic.Int32
			open := func(t *testing.T) *Store {
				c := configOf(server)
				c.Prefix = fmt.Sprintf("kit/%d", n.Add(1))
				s, err := Open(t.Context(), c)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			t.Run("Store", func(t *testing.T) {
				blobtest.Run(t, func(t *testing.T) blob.Store { return open(t) })
			})
			var lock blob.LockMode
			if o.Locks {
				lock = blob.Compliance
				t.Run("Lock", func(t *testing.T) {
					blobtest.RunLocks(t, func(t *testing.T) blob.Locker { return open(t) }, wait)
				})
			}
			s := open(t)
			defer s.Close()
			r, err := probe.Run(t.Context(), s, probe.Options{Lock: lock})
			if err != nil || r.Err() != nil || r.Warnings() != nil || r.Left != nil {
				t.Errorf("%v, %v, %+v", err, r.Err(), r)
			}
		})
	}
}

func TestMinIOHiddenObjectsComeBack(t *testing.T) {
	testHidden(t, s3test.StartMinIO)
}
