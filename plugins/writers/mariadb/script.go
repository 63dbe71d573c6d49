package mariadb

import "github.com/lull-backup/lull/plugins/writers/internal/inguest"

// shared are the functions of the scripts. The client runs as who runs the script, root
// in a guest, whom socket authentication lets in; with an options file by what that
// says. No password is ever on a command line. A server may ask the client for any file
// that it can read, so that is off.
const shared = `
client() { # CLIENT SOCKET OPTIONSFILE [ARG...]
    client=$1 socket=$2 file=$3
    shift 3
    set -- --batch --skip-column-names --skip-reconnect --unbuffered --connect-timeout=5 --protocol=socket --local-infile=0 "--socket=$socket" "$@"
    if [ -n "$file" ] && [ -r "$file" ]; then
        exec "$client" "--defaults-file=$file" "$@"
    fi
    exec "$client" --no-defaults "--user=$(id -un)" "$@"
}
`

// findScript prints what there is of each running server: its process, the numbers of
// its sockets, and which listening Unix sockets there are.
const findScript = inguest.Trusted + `
here=$(stat -Lc %d:%i /proc/self/root/)
for p in /proc/[0-9]*; do
    { read -r name <"$p/comm"; } 2>/dev/null || continue
    case $name in mariadbd | mysqld) ;; *) continue ;; esac
    exe=$(readlink "$p/exe") && cwd=$(readlink "$p/cwd") || continue
    said=$(
        echo "pid ${p#/proc/}"
        echo "data $cwd"
        if [ "$(stat -Lc %d:%i "$p/root/")" = "$here" ]; then
            login "$p" "$exe" mysql
            found=
            ! genuine "$exe" || for dir in "${exe%/*}" "${exe%/sbin/*}/bin"; do
                for client in "$dir/mariadb" "$dir/mysql"; do [ -n "$found" ] || [ ! -x "$client" ] || ! trusted "$client" || found=$client; done
            done
            [ -n "$found" ] || found=$(command -v mariadb || command -v mysql) || found=
            echo "client $found"
            ls -l "$p/fd" 2>/dev/null | sed -n 's/.*socket:\[\([0-9]*\)\]$/open \1/p'
            while read -r number refs protocol flags type state inode path; do
                [ "$flags-$type" != 00010000-0001 ] || echo "listens $inode $path"
            done <"$p/net/unix"
        fi
    )
    [ "$(readlink "$p/cwd")" = "$cwd" ] || continue # what has ended meanwhile said half of it
    printf '%s\n' "$said"
    echo end
done
exit 0`

// askScript runs one question in SQL.
const askScript = shared + `client "$@"`

// filesScript prints where the files of a server really are: its data directory and the
// folders of its settings, which stand relative to it, and what is linked
// to from within.
const filesScript = `
cd "$1" || exit 1
for path; do readlink -f "$path"; done
find . -maxdepth 2 -type l | while read -r link; do readlink -f "$link"; done
find . -maxdepth 2 -name '*.isl' -type f | while read -r link; do head -n 1 "$link"; echo; done # not a pipe, which has no end
exit 0`

// holder locks the servers. Its arguments are the number of seconds that it holds at
// most, and four for each server: client, socket, options file, and the SQL that
// locks. What the clients say goes to one place, which counts the locks.
//
// A client ends with its input, which what feeds it ends: on SIGTERM, after the time,
// and when the leader of the group is gone. The lock goes with the connection.
const holder = shared + `
seconds=$1
shift
servers=$(($# / 4))
feed() {
    end=
    trap 'end=yes' TERM
    printf '%s\n' "$1"
    n=0
    while [ -z "$end" ] && [ $n -lt $((seconds * 2)) ] && [ -e "/proc/$$" ]; do
        sleep 0.5 >/dev/null & # a signal ends the wait for it
        wait $!
        n=$((n + 1))
    done
    [ -z "$end" ] || [ ! -e "$state/release" ] || echo "SELECT 'lull-still';"
}
lock() {
    exec 3>&-
    feed "$4" | {
        trap '' TERM
        (client "$1" "$2" "$3") 2>&1
        echo "ERROR: the connection ended"
    }
}
collect() {
    trap '' TERM
    locked=0 still=0
    while IFS= read -r line; do
        case $line in
        lull-locked*)
            echo "$line" >&3
            locked=$((locked + 1))
            [ $locked -lt $servers ] || { : >"$state/held" && echo held >&3; exec 3>&-; }
            ;;
        lull-still)
            still=$((still + 1))
            [ $still -lt $servers ] || : >"$state/still"
            ;;
        ERROR*) # before it, the client repeats the statement
            [ $locked -eq $servers ] || { echo "$line" >&3; exec 3>&-; kill -TERM -$$; exit; }
            ;;
        esac
    done
}
trap : TERM HUP INT
{
    exec 4>&1 >/dev/null
    while [ $# -ge 4 ]; do
        lock "$1" "$2" "$3" "$4" >&4 &
        shift 4
    done
    exec 4>&- 3>&-
    until wait; do :; done
} | collect &
exec 3>&-
until wait; do :; done
`
