package qemu

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// spool is a file that QEMU writes a state into by itself, whatever becomes of lull, and
// that is read as it grows. It has all its room before the VM is stopped, so that it
// cannot become full, and no name, so that it goes when the last of the two closes it.
type spool struct {
	f     *os.File // shares its offset with QEMU: that is where QEMU writes next
	at    int64    // read so far
	freed int64    // up to there the room was given back
	ended chan struct{}
	end   sync.Once
}

// newSpool makes one of size bytes. name is free, and is so again.
func newSpool(name string, size int64) (*spool, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.Remove(name), allocate(f, 0, 0, size))
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make room for the state: %w", spaceOr(err))
	}
	return &spool{f: f, ended: make(chan struct{})}, nil
}

// allocate is fallocate of a file that another goroutine may close.
func allocate(f *os.File, mode uint32, off, length int64) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = unix.Fallocate(int(fd), mode, off, length) })
	return errors.Join(ctlErr, err)
}

// spoolTick is how often a spool is looked at for more.
const spoolTick = 2 * time.Millisecond

// Read waits for what QEMU writes, and gives back the room of what was read before.
func (s *spool) Read(b []byte) (int, error) {
	tick := time.NewTicker(spoolTick)
	defer tick.Stop()
	for {
		over := s.over()
		written, err := s.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return 0, err
		}
		if s.at < written {
			n, err := s.f.ReadAt(b[:min(int64(len(b)), written-s.at)], s.at)
			s.at += int64(n)
			s.giveBack()
			return n, err
		}
		if over {
			return 0, io.EOF
		}
		select {
		case <-tick.C:
		case <-s.ended:
		}
	}
}

// spoolStep is how much room is given back at once, in bytes: whole blocks of any file system.
const spoolStep = 1 << 20

// giveBack makes room for the file that what was read is written into. Best effort: the room
// of both was looked for.
func (s *spool) giveBack() {
	n := (s.at - s.freed) / spoolStep * spoolStep
	if n > 0 && allocate(s.f, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, s.freed, n) == nil {
		s.freed += n
	}
}

func (s *spool) over() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// finish: QEMU writes no more.
func (s *spool) finish() { s.end.Do(func() { close(s.ended) }) }

// closeSpool gives up the spool there is, if any: what it holds is not needed.
func (s *saving) closeSpool() {
	if s.spool != nil {
		_ = s.spool.Close() // a second time, perhaps
		s.spool = nil
	}
}

func (s *spool) Close() error {
	s.finish()
	return s.f.Close()
}
