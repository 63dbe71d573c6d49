package inguest

import "slices"

// Trusted are functions of scripts that run as root beside processes of anyone.
//
// A process is called what its owner likes, and its program may lie in a folder of the
// owner's. So no program is run because a process has it beside its own, and no login is
// given to a server, before these agree.
const Trusted = `
mine= # who runs this
while read -r key real mine rest && [ "$key" != Uid: ]; do :; done </proc/self/status
trusted() { # FILE: only root, or who runs this, can change it or put another in its place
    for path in "$(readlink -f "$1")" "$(readlink -f "${1%/*}/")"; do
        [ -n "$path" ] || return 1
        while :; do
            set -- $(stat -c '%u %a' "$path" 2>/dev/null)
            [ $# = 2 ] && { [ "$1" = 0 ] || [ "$1" = "$mine" ]; } || return 1
            case $2 in
            [1357]???) [ -d "$path" ] || return 1 ;; # sticky: entries are their owners'
            *[2367]? | *[2367]) return 1 ;;
            esac
            [ "$path" != / ] || break
            path=${path%/*}
            path=${path:-/}
        done
    done
}
genuine() { # EXE: it is a trusted program with the name of a server
    exe=${1%" (deleted)"} # an update has replaced it
    case ${exe##*/} in mariadbd | mysqld | postgres | postmaster) ;; *) return 1 ;; esac
    trusted "$exe"
}
login() { # PROCESS EXE USER: prints why a login may be given to it, which no user has by a name alone
    genuine "$2" || return 0
    owner=$(stat -c %u "$1") || return 0
    if [ "$owner" = 0 ] || [ "$owner" = "$mine" ] || [ "$owner" = "$(id -u "$3" 2>/dev/null)" ]; then
        echo "login system"
    elif [ "$(stat -Lc %d:%i:%u "$1/cwd")" = "$(stat -Lc %d:%i "$(readlink "$1/cwd")"):$owner" ]; then # mounts of its own do not fake the path
        echo "login owner"
    fi
}
`

// Login is what a script found of a server's right to a login; empty: there is none.
type Login string

const (
	loginSystem Login = "system" // root runs it, or the user that is made for such servers
	loginOwner  Login = "owner"  // who runs it owns its data directory
)

// Allows says whether a login may be given to the server of a data directory: it is the
// system's, or the settings name the directory, and its owner runs the server.
func (l Login) Allows(named []string, data string) bool {
	return l == loginSystem || l == loginOwner && slices.Contains(named, data)
}
