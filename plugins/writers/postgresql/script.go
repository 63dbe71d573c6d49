package postgresql

import "github.com/lull-backup/lull/plugins/writers/internal/inguest"

// shared are the functions of the scripts.
//
// psql runs as who owns the server, which PostgreSQL's peer authentication lets in; with
// a service file it runs as who runs the script, by what that file says, and then
// it must be one that nobody else can change.
const shared = inguest.Trusted + `
client() { # UID GID PSQL SOCKET PORT SERVICEFILE [ARG...]
    uid=$1 gid=$2 psql=$3 socket=$4 port=$5 service=$6
    shift 6
    set -- "$psql" -XAtqw -v ON_ERROR_STOP=1 -h "$socket" -p "$port" -d postgres "$@"
    export PGCONNECT_TIMEOUT=5 PGAPPNAME=lull LC_MESSAGES=C
    [ -n "$service" ] && [ -r "$service" ] || service=
    if [ -n "$service" ] || [ "$mine" = "$uid" ]; then
        trusted "$psql" || { echo "others than root can change $psql" >&2; return 1; }
    fi
    if [ -n "$service" ]; then
        PGSERVICEFILE=$service PGSERVICE=lull "$@"
    elif [ "$mine" = "$uid" ]; then
        "$@"
    elif command -v setpriv >/dev/null; then
        setpriv --reuid "$uid" --regid "$gid" --clear-groups "$@"
    else
        su -s /bin/sh "$(id -un "$uid")" -c 'exec "$0" "$@"' -- "$@"
    fi
}
look() { # PID: its condition and when it started
    condition= start=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    condition=$1 start=${20}
}
family() { # PID: a postmaster and its processes
    kids=
    if [ -r "/proc/$1/task/$1/children" ]; then
        read -r kids <"/proc/$1/task/$1/children" || :
    else
        for p in /proc/[0-9]*; do
            { read -r stat <"$p/stat"; } 2>/dev/null || continue
            stat=${stat##*) } stat=${stat#* }
            [ "${stat%% *}" != "$1" ] || kids="$kids ${p#/proc/}"
        done
    fi
    echo $1 $kids
}
each() { # FUNCTION: calls it for each cluster that is to be stopped
    [ ! -e "$state/stopped" ] || while read -r master began; do
        ! look "$master" || [ "$start" != "$began" ] || "$1" "$master" || return
    done <"$state/stopped"
}
goon() { # everything that was stopped, children whose postmaster is gone as well
    each resume
    [ ! -e "$state/children" ] || while read -r p began; do
        ! look "$p" || [ "$start" != "$began" ] || kill -CONT "$p" 2>/dev/null || :
    done <"$state/children"
}
resume() { kill -CONT $(family "$1") 2>/dev/null || :; }
`

// findScript prints what there is of each running server. A server is the process whose
// number is in the postmaster.pid of its working directory, which is its data directory.
const findScript = shared + `
here=$(stat -Lc %d:%i /proc/self/root/)
for p in /proc/[0-9]*; do
    { read -r name <"$p/comm"; } 2>/dev/null || continue
    case $name in postgres | postmaster) ;; *) continue ;; esac
    file=$p/cwd/postmaster.pid # anyone's, and perhaps a pipe, which has no end
    [ -f "$file" ] && [ ! -L "$file" ] && lines=$(timeout 2 head -c 8192 "$file" 2>/dev/null) || continue
    { read -r pid; read -r data; read -r began; read -r port; read -r socket; } <<END || continue
$lines
END
    [ "$pid" = "${p#/proc/}" ] || continue
    look "$pid" && cwd=$(readlink "$p/cwd") || continue
    found=$(
        echo "pid $pid"
        echo "start $start"
        echo "owner $(stat -c %u:%g "$p")"
        echo "port $port"
        echo "socket $socket"
        echo "data $cwd"
        if [ "$(stat -Lc %d:%i "$p/root/")" = "$here" ]; then
            exe=$(readlink "$p/exe")
            login "$p" "$exe" postgres
            near=${exe%/*}/psql
            if genuine "$exe" && [ -x "$near" ] && trusted "$near"; then
                psql=$near
            elif ! psql=$(command -v psql); then
                psql=$near # as who owns the server, whose it may be
                [ -x "$psql" ] || psql=
            fi
            echo "psql $psql"
            echo "wal $(readlink -f "$p/cwd/pg_wal")"
            for space in "$p"/cwd/pg_tblspc/*; do
                [ ! -L "$space" ] || echo "space $(readlink -f "$space")"
            done
        fi
    )
    seen=$start # what has ended meanwhile said half of it
    look "$pid" && [ "$start" = "$seen" ] && [ "$(readlink "$p/cwd")" = "$cwd" ] || continue
    printf '%s\n' "$found"
    echo end
done
exit 0`

// askScript runs one question in SQL.
const askScript = shared + `client "$@"`

// holder stops the servers. Its arguments are the number of seconds that it holds at
// most, and nine for each server: PID, start, UID, GID, psql, socket, port, service
// file, and the SQL of the last question.
//
// First what was acknowledged is made durable, whatever synchronous_commit says. Then
// the postmaster is stopped, so that it starts no process, and then its processes, and
// each is waited for until it does stand still.
//
// The process that stops and one that watches it are joined by a pipe: when either
// ends, however that may come, the other lets the servers go on.
const holder = shared + `
seconds=$1
shift
stop() {
    kill -STOP "$@" 2>/dev/null
    for p; do
        tries=0
        while look "$p"; do
            case $condition in T | t | Z | X) break ;; esac
            tries=$((tries + 1))
            [ $tries -lt 500 ] || { echo "process $p does not stop" >&3; return 1; }
            sleep 0.01
        done
    done
}
halt() {
    stop "$1" || return
    all=$(family "$1")
    for p in $all; do ! look "$p" || echo "$p $start"; done >>"$state/children"
    stop $all
}
stand() { # each postmaster is the one that was stopped, and all its processes stand
    while read -r master began; do
        look "$master" && [ "$start" = "$began" ] || return 1
        case $condition in T | t) ;; *) return 1 ;; esac
        for p in $(family "$master"); do
            ! look "$p" || case $condition in T | t | Z | X) ;; *) return 1 ;; esac
        done
    done <"$state/stopped"
}
hold() {
    trap '' PIPE
    list=
    while [ $# -ge 9 ]; do
        wal=$(client "$3" "$4" "$5" "$6" "$7" "$8" -c "$9" 2>&1) || { echo "$wal" >&3; return; }
        echo "wal $1 ${wal##*"
"}" >&3
        list="$list$1 $2
"
        shift 9
    done
    rm -f "$state/children" && printf %s "$list" >"$state/stopped" || return
    each halt || return
    end= n=0
    trap 'end=yes' TERM
    : >"$state/held" && echo held >&3
    exec 3>&-
    while [ -z "$end" ] && [ $n -lt $((seconds * 2)) ] && [ -e "/proc/$$" ] && echo; do
        sleep 0.5 >/dev/null & # a signal ends the wait for it
        wait $!
        n=$((n + 1))
    done
    [ -z "$end" ] || [ ! -e "$state/release" ] || ! stand || : >"$state/still"
}
trap : TERM HUP INT
{ hold "$@"; goon; } | {
    trap '' TERM HUP INT
    exec 3>&-
    while read -r beat; do :; done # no process of its own that would keep the pipe open
    goon
    rm -f "$state/stopped" "$state/children"
} &
exec 3>&-
until wait; do :; done
`

// resumeScript lets go on what a holder has left standing that was killed with its watch.
const resumeScript = shared + `
goon
rm -f "$state/stopped" "$state/children"
`
