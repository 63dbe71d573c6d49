package quiesce

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/lull-backup/lull/snapshot"
)

// timerSlack is how much longer than the freeze window the guest's timer waits:
// it must never end a window that the host still has in hand.
const timerSlack = 10 * time.Second

// timerProgram waits in the background of the guest and then thaws what is frozen
// on block devices. It prints its process number. Thawing what is not frozen fails
// and does no harm. The exec lets go of the output that the agent in the guest waits
// for the end of.
const timerProgram = `
command -v fsfreeze >&2 || exit 1
(
	exec </dev/null >/dev/null 2>&1
	sleep "$1"
	while read -r device folder rest; do
		case $device in /dev/*) fsfreeze --unfreeze "$(printf %b "$folder")" ;; esac
	done </proc/self/mounts
) &
echo $!`

// timerCancel ends the program by its number, if that is still its.
const timerCancel = `grep -q lull-thaw "/proc/$1/cmdline" && kill "$1"`

// Executor runs programs in a guest; a snapshot.Guest is one.
type Executor interface {
	Exec(ctx context.Context, c snapshot.Command) (snapshot.ExecResult, error)
}

// Timer is a Guard inside the guest, for the case that the whole host's side is
// gone or hangs: a shell that thaws the file systems a while after the end of the
// freeze window. Guests that cannot run one, Windows among them, whose VSS has a
// timer of its own, go without.
type Timer struct {
	guest  Executor
	window time.Duration
	log    *slog.Logger
	number string // of the process in the guest; empty: none
}

// NewTimer makes the timer for a freeze window.
func NewTimer(guest Executor, p Policy, log *slog.Logger) *Timer {
	return &Timer{guest: guest, window: p.window(), log: log}
}

// Arm starts the timer in the guest, where that can run one.
func (t *Timer) Arm(ctx context.Context) error {
	seconds := strconv.Itoa(int((t.window + timerSlack) / time.Second))
	result, err := t.shell(ctx, timerProgram, seconds)
	number := strings.TrimSpace(string(result.Stdout))
	if _, bad := strconv.ParseUint(number, 10, 31); err == nil && (result.ExitCode != 0 || bad != nil) {
		err = fmt.Errorf("exit code %d", result.ExitCode)
	}
	if err != nil {
		t.log.Debug("no thaw timer in this guest", "error", err)
		return nil
	}
	t.number = number
	return nil
}

// Disarm ends the timer; it stays where the guest may still be frozen.
func (t *Timer) Disarm(ctx context.Context, thawed bool) error {
	if t.number == "" || !thawed {
		return nil
	}
	_, err := t.shell(ctx, timerCancel, t.number)
	t.number = ""
	if err != nil {
		return fmt.Errorf("end the thaw timer in the guest: %w", err)
	}
	return nil
}

// shellTime bounds a call that must not hold up the run.
const shellTime = 5 * time.Second

func (t *Timer) shell(ctx context.Context, program, arg string) (snapshot.ExecResult, error) {
	return t.guest.Exec(ctx, snapshot.Command{Path: "/bin/sh", Args: []string{"-c", program, "lull-thaw", arg}, Timeout: shellTime})
}
