package qemu

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// From Take until its commit starts nobody writes to an image, and from then on
// nobody but that commit. So when QEMU has gone and the image was written to all the
// same, a VM has run from it without its delta, or another image was put in its place,
// and the delta must not be committed over that. A small file beside the delta says
// what the image was like when it was frozen, and whether a commit into it has begun.
//
// It is a file, as not every file system keeps extended attributes. Prepare makes it,
// as long as it will ever be: Take and a commit only write over it, which needs no
// room and little time.

// stampSuffix is added to a delta's path, whichever its own name is then.
const stampSuffix = ".stamp"

// stampLength is the length of a stamp's file, in bytes; spaces fill it.
const stampLength = 128

// The states of a stamp, its first word.
const (
	stampNone   = "none"   // the image is not frozen yet
	stampFrozen = "frozen" // the image is like this
	stampCommit = "commit" // it was, when a commit into it began
	stampPivot  = "pivot"  // it was; of a managed VM, whose move to the image was ordered
	stampMerged = "merged" // it was; all that the delta holds has come into the image
	stampMoved  = "moved"  // it was; the VM was last seen leaving for another host
)

// stamp is what changes with every write to an image, and its inode, which changes
// when another image is put in its place.
type stamp struct {
	state    string
	modified time.Time
	size     int64
	inode    uint64
}

// errNoStamp: what stands in for an image is no file, or its stamp was not written.
var errNoStamp = errors.New("no stamp")

// stampOf looks at an image. Only of a regular file a write can be seen.
func stampOf(image string) (stamp, error) {
	if image == "" { // on a server
		return stamp{}, errNoStamp
	}
	info, err := os.Stat(image)
	if err != nil {
		return stamp{}, err
	}
	is, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return stamp{}, errNoStamp
	}
	return stamp{state: stampFrozen, modified: info.ModTime(), size: info.Size(), inode: is.Ino}, nil
}

func (s stamp) same(t stamp) bool {
	return s.modified.Equal(t.modified) && s.size == t.size && s.inode == t.inode
}

func (s stamp) String() string {
	text := fmt.Sprintf("%s %d %d %d", s.state, s.modified.UnixNano(), s.size, s.inode)
	return text + strings.Repeat(" ", max(0, stampLength-1-len(text))) + "\n"
}

func parseStamp(text string) (stamp, error) {
	words := strings.Fields(text)
	if len(words) != 4 || !slices.Contains([]string{stampFrozen, stampCommit, stampPivot, stampMerged, stampMoved}, words[0]) {
		return stamp{}, errNoStamp
	}
	nanoseconds, err1 := strconv.ParseInt(words[1], 10, 64)
	size, err2 := strconv.ParseInt(words[2], 10, 64)
	inode, err3 := strconv.ParseUint(words[3], 10, 64)
	if errors.Join(err1, err2, err3) != nil {
		return stamp{}, errNoStamp
	}
	return stamp{state: words[0], modified: time.Unix(0, nanoseconds), size: size, inode: inode}, nil
}

// readStamp reads the stamp of a delta. errNoStamp: there is none that tells.
func readStamp(d snapshot.DiskPlan) (stamp, error) {
	f, err := openStamp(d, os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}, errNoStamp
	}
	if err != nil {
		return stamp{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, stampLength))
	if err != nil {
		return stamp{}, err
	}
	return parseStamp(string(b))
}

// makeStamp makes the file of a delta that was just created.
func makeStamp(d snapshot.DiskPlan) error {
	f, err := createStamp(d)
	if err == nil {
		err = stamp{state: stampNone}.put(f, false)
	}
	if err != nil {
		return fmt.Errorf("create stamp of delta: %w", spaceOr(err))
	}
	return nil
}

// createStamp makes the file, and nothing of what is there already.
func createStamp(d snapshot.DiskPlan) (*os.File, error) {
	return os.OpenFile(d.Delta+stampSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
}

// openStamp opens the file, and no other: QEMU's user may write to the folder, and would
// have root write wherever a link of his leads.
func openStamp(d snapshot.DiskPlan, flag int) (*os.File, error) {
	path := d.Delta + stampSuffix
	f, err := os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) { // a link, a pipe
		return nil, notStamp(path)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if is, ok := info.Sys().(*syscall.Stat_t); !ok || !info.Mode().IsRegular() || is.Nlink != 1 {
		return nil, errors.Join(notStamp(path), f.Close())
	}
	return f, nil
}

func notStamp(path string) error {
	return snapshot.WithHint(fmt.Errorf("%s is a link or no plain file, and none of lull's: %w", path, snapshot.ErrExists),
		"find out who has put it there, and rm "+snapshot.ShellWord(path))
}

// write puts a stamp over the one before.
func (s stamp) write(d snapshot.DiskPlan, durably bool) error {
	f, err := openStamp(d, os.O_WRONLY)
	if errors.Is(err, fs.ErrNotExist) {
		f, err = createStamp(d)
	}
	if err != nil {
		return err
	}
	return s.put(f, durably)
}

// put writes a stamp into its file, and closes that.
func (s stamp) put(f *os.File, durably bool) error {
	_, err := f.WriteAt([]byte(s.String()), 0)
	if err == nil && durably {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// noteFrozen records the image as it is now, known to be as it should. Without a
// stamp nothing is lost but that a merge with QEMU gone may have to ask.
func noteFrozen(d snapshot.DiskPlan, durably bool) error {
	s, err := stampOf(d.Path)
	if err != nil {
		return err
	}
	return s.write(d, durably)
}

// settleStamp makes what Take has noted durable, and what it noted it of: after a loss
// of power a file system may know an earlier time of the image's last write, and the
// image would seem to be another's work.
func settleStamp(d snapshot.DiskPlan) error {
	paths := []string{d.Delta, d.Delta + stampSuffix}
	if _, err := readStamp(d); err == nil {
		paths = append(paths, d.Path)
	}
	for _, path := range paths {
		if err := syncFile(path); err != nil {
			return err
		}
	}
	return nil
}

// note records durably how far a merge has come: with stampCommit that the image is
// about to be written to. It keeps which image that is, where that is known.
func note(d snapshot.DiskPlan, state string) error {
	s, err := readStamp(d)
	if errors.Is(err, errNoStamp) && state == stampCommit {
		return nil // then it will not tell either
	}
	if err != nil && !errors.Is(err, errNoStamp) {
		return err
	}
	s.state = state
	if err := s.write(d, true); err != nil {
		return fmt.Errorf("mark delta: %w", spaceOr(err))
	}
	return nil
}

// verdict is what can be told of an image and a delta whose QEMU has gone.
type verdict int

const (
	unknown verdict = iota // whether anybody else wrote to the image cannot be told
	ours                   // nobody did
	foreign                // somebody did
	away                   // somebody may have read it, and have it open
)

// judge looks at an image whose QEMU has gone. seen says that this process has seen
// that QEMU until now, so that no other can have come in between.
//
// Once a commit has begun, the image changes with it. But then nobody except the
// plan's own QEMU writes to the delta: an image that was last written to no later than
// the delta has been written to by that QEMU alone.
func judge(d snapshot.DiskPlan, seen bool) (verdict, error) {
	was, err := readStamp(d)
	var now stamp
	if err == nil {
		now, err = stampOf(d.Path)
	}
	moved := was.state == stampMoved
	switch {
	case moved && (errors.Is(err, errNoStamp) || err == nil && (was.inode == 0 || was.same(now))):
		return away, nil
	case errors.Is(err, errNoStamp) && seen:
		return ours, nil
	case errors.Is(err, errNoStamp):
		return unknown, nil
	case err != nil:
		return unknown, err
	case was.inode != now.inode || (moved || was.state == stampFrozen) && !was.same(now):
		return foreign, nil
	case was.state == stampFrozen || seen:
		return ours, nil
	}
	delta, err := os.Stat(d.Delta)
	if err == nil && !now.modified.After(delta.ModTime()) {
		return ours, nil
	}
	return unknown, err
}
