#!/usr/bin/python3
"""A writer that makes one SQLite database in a guest hold still.

    sqlite_writer.py /srv/app.db

While it is frozen, a process in the guest holds the database's write lock: readers
go on, writers wait. The write-ahead log is written back first, so that what is on
the disk is one whole file. It needs sqlite3 in the guest, and the grant "exec".

The hold ends by itself after HOLD seconds, should lull and this program be gone.
"""

import sys
import time

import lullplugin
import writer_pb2 as pb

HOLD = 70  # seconds; a window is 60 at most
STATE = "/run/lull-sqlite"

# Exit codes of the scripts below.
DONE, BUSY, NOT_HELD, ABSENT, OVER = 0, 2, 3, 4, 5

# In the window every program that is started costs time, so the shell does itself what it can.
#
# A freeze that was given up may still be on its way in the guest while the thaw runs,
# or even start after it. So calls have numbers that only grow; thaw writes its own down,
# and a freeze with a lower one does nothing, both under one lock.
#
# The holder feeds sqlite3 and stays: with its end the database's lock ends. Its process
# group is what thaw kills, and its name is in the command line, so that a number that is
# another's by now is left alone.
FREEZE = r"""
db=$1 state=$2 turn=$3 hold=$4
[ -f "$db" ] && [ ! -L "$db" ] && command -v sqlite3 >/dev/null || exit 4
{ [ -d "$state" ] || mkdir -p "$state"; } && exec 9>"$state/lock" && flock 9 || exit 1
{ read -r over <"$state/over"; } 2>/dev/null
[ "$turn" -gt "${over:-0}" ] || exit 5
rm -f "$state/held" "$state/pid"
setsid sh -c '
    echo $$ > "$2/pid" && exec 9>&- || exit 1
    { echo ".bail on"; echo ".timeout 5000"; echo "PRAGMA wal_checkpoint(TRUNCATE);"
      echo "BEGIN IMMEDIATE;"; echo ".shell touch $2/held"; exec sleep "$3"; } | sqlite3 "$1"
    rm -f "$2/held"
' lull-sqlite-holder "$db" "$state" "$hold" </dev/null >/dev/null 2>&1 &
exec 9>&- # the lock is the holder's now, until its number is written
i=0
while [ $((i += 1)) -le 120 ]; do
    [ -e "$state/held" ] && exit 0
    sleep 0.05
done
exit 2
"""

THAW = r"""
state=$2 turn=$3
mkdir -p "$state" && exec 9>"$state/lock" && flock 9 && echo "$turn" > "$state/over" || exit 1
pid=$(cat "$state/pid" 2>/dev/null) || exit 3
held=3
if tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -q lull-sqlite-holder; then
    [ -e "$state/held" ] && held=0
    kill -KILL "-$pid" || exit 1
    i=0
    while kill -0 "-$pid" 2>/dev/null && [ $((i += 1)) -le 250 ]; do sleep 0.02; done
    ! kill -0 "-$pid" 2>/dev/null || exit 1
fi
rm -f "$state/held" "$state/pid"
exit $held
"""

# Most of the write-ahead log is written back before the window, beside other writers.
#
# Nor here may a link be the database: these scripts run as root, and whoever can put a link
# in its place would choose what they lock.
PROBE = r"""
[ -f "$1" ] && [ ! -L "$1" ] && command -v sqlite3 >/dev/null || exit 4
sqlite3 "$1" "PRAGMA wal_checkpoint(PASSIVE);" || :
"""


class SQLite:
    def __init__(self, database):
        self.database = database
        self.guest = None
        self.turn = 0

    def connect(self, guest):
        self.guest = guest

    def identify(self):
        return pb.IdentifyResponse(
            name="sqlite", version="1", tier=pb.TIER_BACK_END, level=pb.LEVEL_APPLICATION, components=[self.database]
        )

    def run(self, script, timeout):
        self.turn = max(time.time_ns(), self.turn + 1)
        if self.guest is None:
            raise lullplugin.Failure("no way into the guest", pb.FAILURE_CLASS_NOT_PRESENT)
        args = ["-c", script, "lull-sqlite", self.database, STATE, str(self.turn), str(HOLD)]
        result = self.guest.execute("/bin/sh", args, timeout)
        if result.exit_code == ABSENT:
            raise lullplugin.Failure(
                "no database %s (a link is none), or no sqlite3" % self.database, pb.FAILURE_CLASS_NOT_PRESENT, hint="install sqlite3 in the guest"
            )
        return result

    def prepare(self, _request, timeout):
        result = self.run(PROBE, timeout)
        try:  # 0|pages in the log|pages written back
            _, pages, written = (int(n) for n in result.stdout.split(b"|"))
            lullplugin.progress("pages of the write-ahead log written back", max(written, 0), max(pages, 0))
        except ValueError:  # it is locked by another, and Freeze will tell
            pass
        files = [self.database, self.database + "-wal"]
        return pb.PrepareResponse(components=[pb.Component(name=self.database, files=files)])

    def freeze(self, _request, timeout):
        result = self.run(FREEZE, timeout)
        if result.exit_code == BUSY:
            raise lullplugin.Failure(
                "the database stays locked by another",
                pb.FAILURE_CLASS_RETRYABLE,
                component=self.database,
                hint="look for a long transaction",
            )
        if result.exit_code == OVER:
            raise lullplugin.Failure("a later call came first", hint="if it stays: did the clock of the host go back?")
        if result.exit_code != DONE:
            raise lullplugin.Failure("freeze ended with %d: %s" % (result.exit_code, result.stderr[:200]))

    def thaw(self, _request, timeout):
        result = self.run(THAW, timeout)
        if result.exit_code not in (DONE, NOT_HELD):
            raise lullplugin.Failure("thaw ended with %d: %s" % (result.exit_code, result.stderr[:200]))
        return pb.ThawResponse(held=result.exit_code == DONE)

    def abort(self, request, timeout):
        self.thaw(request, timeout)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: sqlite_writer.py DATABASE")
    lullplugin.serve(SQLite(sys.argv[1]))
