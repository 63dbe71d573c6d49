package s3

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/dir"
	"github.com/lull-backup/lull/transport/blob/s3/s3test"
)

const (
	benchPack  = 23 << 20 // as sessions make them
	benchPacks = 16
)

// BenchmarkStores stores packs as a backup does, through a folder and through S3 on this
// machine, in one run, so that the ratio of their times means something. cpu-ms/op is
// this process's processor time; server-ms/op is the server's, which on another machine
// would not be in the way. https-signed is what is not done: a SHA-256 over TLS.
func BenchmarkStores(b *testing.B) {
	for _, streams := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			folder, err := dir.Open(b.TempDir())
			if err != nil {
				b.Fatal(err)
			}
			defer folder.Close()
			server := s3test.Start(b)
			plain := s3test.StartPlain(b)
			b.Run("put/dir", func(b *testing.B) { benchPut(b, folder, streams, nil) })
			b.Run("put/https", func(b *testing.B) { benchPut(b, openStore(b, configOf(server)), streams, server) })
			b.Run("put/http", func(b *testing.B) { benchPut(b, openStore(b, configOf(plain)), streams, plain) })
			signed := openStore(b, configOf(server))
			signed.secure = false // sign the payload in spite of TLS
			b.Run("put/https-signed", func(b *testing.B) { benchPut(b, signed, streams, server) })
		})
	}
}

// benchPut stores packs by some streams at once.
func benchPut(b *testing.B, s blob.Store, streams int, server *s3test.Server) {
	data := bytes.Repeat([]byte("0123456789abcdef"), benchPack/16)
	var n atomic.Int64
	b.SetBytes(benchPack * benchPacks)
	cpu, serverCPU := processorTime(b), server.ProcessorTime(b)
	b.ResetTimer()
	for b.Loop() {
		var wg sync.WaitGroup
		names := make(chan string)
		for range streams {
			wg.Go(func() {
				for name := range names {
					if err := s.Create(b.Context(), name, data); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for range benchPacks {
			names <- fmt.Sprintf("packs/%03d", n.Add(1))
		}
		close(names)
		wg.Wait()
		b.StopTimer()
		if err := s.List(b.Context(), "packs/", func(i blob.Info) error { return s.Delete(context.WithoutCancel(b.Context()), i.Name) }); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(processorTime(b)-cpu)/1e6/float64(b.N), "cpu-ms/op")
	b.ReportMetric(float64(server.ProcessorTime(b)-serverCPU)/1e6/float64(b.N), "server-ms/op")
}

// processorTime is what this process has used until now.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
