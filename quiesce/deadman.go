package quiesce

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// What dead-man and agent say to each other, a byte each.
const (
	deadManReady = 'r' // to the agent: I stand by
	deadManLeave = 'l' // to the dead-man: all is well
)

// deadManPatience is how long a dead-man may take to leave once it is told to.
const deadManPatience = 10 * time.Second

// DeadMan is a Guard in a process of its own: a child that stands by for as long
// as the other end of its standard input is open, and thaws the guest when that
// closes without a word, because this process has died, however it did.
//
// It learns how the guest is reached from the first line of that input, the recipe:
// whatever becomes of the configuration meanwhile, it thaws the guest that was frozen.
type DeadMan struct {
	command func() *exec.Cmd
	recipe  []byte
	child   *exec.Cmd
	pipe    io.WriteCloser // its standard input
	ended   chan error     // of the child, once
}

// maxRecipe bounds a recipe, in bytes: no more than fits into a pipe that nobody
// reads from yet.
const maxRecipe = 32 << 10

// NewDeadMan makes a guard from the command of a program that calls StandBy. The
// recipe is for its thaw: one line, without its end.
func NewDeadMan(command func() *exec.Cmd, recipe []byte) *DeadMan {
	return &DeadMan{command: command, recipe: recipe}
}

// errEndedAtOnce: the child found something wrong; only it knows what.
var errEndedAtOnce = errors.New("it ended at once; its own message is in lull's log")

// Arm starts the child and waits until it stands by.
func (d *DeadMan) Arm(ctx context.Context) error {
	if bytes.ContainsRune(d.recipe, '\n') {
		return errors.New("start dead-man: its recipe is more than a line")
	}
	if len(d.recipe) > maxRecipe {
		return snapshot.WithHint(fmt.Errorf("start dead-man: its recipe has %d bytes, and %d at most are taken", len(d.recipe), maxRecipe),
			"let the group have fewer writers, or shorter commands of scripts")
	}
	cmd := d.command()
	// A signal to this process's group or terminal is none for the child.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start dead-man: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start dead-man: %w", errors.Join(err, in.Close()))
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dead-man: %w", errors.Join(err, in.Close()))
	}
	d.child, d.pipe, d.ended = cmd, in, make(chan error, 1)
	// One that has ended already reads nothing; that shows below.
	_, _ = in.Write(append(bytes.Clone(d.recipe), '\n'))
	ready := make(chan error, 1)
	go func() {
		first, err := bufio.NewReader(out).ReadByte()
		if err == nil && first != deadManReady {
			err = fmt.Errorf("it said %q", first)
		}
		ready <- err
		d.ended <- cmd.Wait()
	}()
	select {
	case err = <-ready:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) {
		err = errEndedAtOnce
	}
	if err != nil {
		// Nothing is frozen yet: it may go without thawing anything.
		return fmt.Errorf("start dead-man: %w", errors.Join(err, in.Close(), d.kill()))
	}
	return nil
}

func (d *DeadMan) kill() error {
	err := d.child.Process.Kill()
	<-d.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Disarm sends the child away, or, where the guest is not proven thawed, leaves it
// to the child: it thaws the guest for as long as Limits.Follow, whatever becomes
// of this process.
func (d *DeadMan) Disarm(ctx context.Context, thawed bool) error {
	if !thawed {
		return d.pipe.Close()
	}
	if _, err := d.pipe.Write([]byte{deadManLeave}); err != nil {
		return fmt.Errorf("dead-man: %w", errors.Join(err, <-d.ended))
	}
	ctx, cancel := context.WithTimeout(ctx, deadManPatience)
	defer cancel()
	select {
	case err := <-d.ended: // its pipe is closed
		return err
	case <-ctx.Done():
		return fmt.Errorf("dead-man does not leave: %w", errors.Join(context.Cause(ctx), d.kill()))
	}
}

// Thaw is what a dead-man does at last. Its context only its own deadline ends, Limits.Follow;
// one that knows what it waits for may go on beyond that.
type Thaw func(context.Context) error

// StandBy is the child's half of a DeadMan. It hands the recipe to prepare, says that
// it stands by, and waits for the end of in. When that comes without a word it thaws.
func StandBy(ctx context.Context, in io.Reader, out io.Writer, prepare func(recipe []byte) (Thaw, error)) error {
	words := bufio.NewReaderSize(in, maxRecipe+1)
	recipe, err := readRecipe(words)
	if err != nil {
		return fmt.Errorf("stand by: read recipe: %w", err)
	}
	thaw, err := prepare(recipe)
	if err != nil {
		return fmt.Errorf("stand by: %w", err)
	}
	if _, err := out.Write([]byte{deadManReady}); err != nil {
		return fmt.Errorf("stand by: %w", err)
	}
	var word [1]byte
	if _, err := io.ReadFull(words, word[:]); err == nil && word[0] == deadManLeave {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Limits{}.withDefaults().Follow)
	defer cancel()
	return thaw(ctx)
}

// readRecipe reads the first line, which fits into the buffer.
func readRecipe(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("it has more than %d bytes", maxRecipe)
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(line[:len(line)-1]), nil
}
