package inguest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/lull-backup/lull/plugins/sdk"
	"github.com/lull-backup/lull/quiesce"
	"github.com/lull-backup/lull/snapshot"
)

// Longest is how long a hold lasts at most, whatever becomes of lull: longer than the
// longest freeze window.
const Longest = quiesce.MaxWindow + 10*time.Second

// Hold is a process in the guest that makes an application hold still while it lives.
//
// The host may give up on a call that the guest carries out later. So each freeze
// has a turn, a number that Begin takes in the guest, and Release ends every turn that
// was taken: a freeze that comes after it does nothing.
//
// State is a folder of the guest that does not outlive its kernel. In it are
//
//	lock     held while one of the numbers is read and acted upon
//	turn     the last turn that was taken
//	over     the last turn that has ended
//	pid      the leader of the process group that holds
//	alive    locked by each process of that group: free, they are all gone
//	held     there while it does hold
//	release  there once a release has asked for the end
//	still    there where it had held until that moment
type Hold struct {
	Shell
	State string
	// Limit is how long it lasts at most, in whole seconds; 0: Longest.
	Limit time.Duration
}

// Seconds is the limit as scripts are told it.
func (h Hold) Seconds() string { return strconv.Itoa(int(cmp.Or(h.Limit, Longest) / time.Second)) }

// opening of each script: the folder, and its lock on descriptor 9. Most scripts run in the
// window, in which each program that is started costs time: so they do by themselves what a
// shell can.
const opening = `
for tool in flock setsid; do command -v $tool >/dev/null || { echo $tool >&2; exit 76; }; done
umask 077
state=$1
{ [ -d "$state" ] || mkdir -p "$state"; } && exec 9>"$state/lock" && flock -w 10 9 || exit 1
number() { n=0; [ ! -r "$state/$1" ] || read -r n <"$state/$1"; n=${n:-0}; } # in n
`

const beginScript = opening + `
number turn
turn=$((n + 1))
echo $turn >"$state/turn.new" && mv "$state/turn.new" "$state/turn" && echo $turn`

// Begin takes a turn.
func (h Hold) Begin(ctx context.Context) (uint64, error) {
	out, err := h.Run(ctx, beginScript, h.State)
	if err != nil {
		return 0, err
	}
	turn, err := strconv.ParseUint(strings.TrimSpace(string(out)), 10, 53)
	if err != nil || turn == 0 {
		return 0, h.Fail(fmt.Errorf("the guest answered %.40q, which is no turn", out))
	}
	return turn, nil
}

// holdScript starts the holder and waits until it closes its output, by its end at the
// latest.
const holdScript = `
holder=$1
shift
out=$(setsid sh -c "$holder" lull-hold "$@" </dev/null 2>&1 &)
printf '%s\n' "$out"`

// holderOpening is the beginning of the holder: it acts only in its turn. It answers on
// descriptor 3; the rest of its output is lost.
const holderOpening = opening + `
turn=$2
number turn && [ "$turn" = "$n" ] && number over && [ "$turn" -gt "$n" ] || { echo over; exit; }
exec 8>"$state/alive" && flock -n 8 || { echo "an earlier hold has not ended"; exit; }
for left in held release still; do [ ! -e "$state/$left" ] || rm -f "$state/$left"; done
echo $$ >"$state/pid" || exit 1 # nobody reads it before the lock is free
exec 3>&1 >/dev/null 2>&1 9>&-
shift 2
`

// Take starts the process that holds. script is for /bin/sh; in it, $state is the folder
// and $1 and so on are args. When the application holds still it makes the file held,
// prints a line "held" on descriptor 3 and closes that; what it printed there
// before is returned. It ends on SIGTERM to its group, and by itself after Longest, and what
// it held goes on then, even where it is killed. Where the file release is there at
// its end, and it had held until then, it makes the file still.
func (h Hold) Take(ctx context.Context, turn uint64, script string, args ...string) ([]string, error) {
	out, err := h.Run(ctx, holdScript, append([]string{holderOpening + script, h.State, strconv.FormatUint(turn, 10)}, args...)...)
	if err != nil {
		return nil, err
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	switch last := lines[len(lines)-1]; last {
	case "held":
		return lines[:len(lines)-1], nil
	case "over":
		return nil, h.Fail(ErrOver)
	default:
		return lines, h.Fail(&ExitError{Said: Line([]byte(last))})
	}
}

// releaseScript ends all turns, and the process group that holds, and waits for its last
// process. Its answer is held where the hold was there until now. While one of the group
// lives, its number is no other's.
const releaseScript = opening + `
number turn
echo "$n" >"$state/over.new" && mv "$state/over.new" "$state/over" && exec 8>"$state/alive" || exit 1
answer=none
if ! flock -n 8; then
    number pid
    pid=$n
    [ "$pid" -gt 1 ] && : >"$state/release" || exit 1
    kill -TERM "-$pid" 2>/dev/null
    flock -w 5 8 || { kill -KILL "-$pid"; flock -w 3 8; } || { echo "process $pid does not end" >&2; exit 1; }
    [ ! -e "$state/held" ] || [ ! -e "$state/still" ] || answer=held
fi
rm -f "$state/held" "$state/still" "$state/release" "$state/pid"
shift
`

// Release ends the hold and every turn, and says whether it had held until now. after
// is a script that runs then, under the same lock; what it fails with is the result.
func (h Hold) Release(ctx context.Context, after string, args ...string) (held bool, err error) {
	out, err := h.Run(ctx, releaseScript+after+"\necho $answer", append([]string{h.State}, args...)...)
	if err != nil {
		return false, err
	}
	switch strings.TrimSpace(string(out)) {
	case "held":
		return true, nil
	case "none":
		return false, nil
	}
	return false, h.Fail(fmt.Errorf("the guest answered %.40q to a thaw", out))
}

// ReleaseSurely tries again until it is done or ctx ends. A guest that is gone holds nothing,
// nor does one in which no hold could begin.
func (h Hold) ReleaseSurely(ctx context.Context, after string, args ...string) error {
	if h.Guest == nil {
		return nil
	}
	return quiesce.Insist(ctx, firstPause, lastPause, func() (again bool, err error) {
		_, err = h.Release(ctx, after, args...)
		if errors.Is(err, snapshot.ErrGone) || errors.Is(err, snapshot.ErrNoGuest) || errors.Is(err, ErrMissing) {
			return false, nil
		}
		return !errors.Is(err, sdk.ErrDenied), err // what is denied will be
	})
}

// Tries of a release come faster at first.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)
