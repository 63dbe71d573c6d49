# The beginning of freeze.sh and thaw.sh.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
umask 077

# alive MARK FILE: the process whose number is in FILE is still that one.
alive() {
	number=$(cat "$2" 2>/dev/null) && [ -n "$number" ] || return 1
	{ tr '\0' '\n' <"/proc/$number/cmdline"; } 2>/dev/null | grep -qxF "$1"
}

# end MARK FILE: ends its process group.
end() {
	tries=0
	while alive "$1" "$2" && [ "$tries" -lt 100 ]; do
		kill -KILL "-$number" 2>/dev/null
		sleep 0.02
		tries=$((tries + 1))
	done
}

# run FILE DIR LIMIT COMMAND...: runs it as a process group, its number in FILE, for LIMIT
# seconds at most, and sets code. What it prints is in DIR/out, the first 64 KiB at most;
# what a daemon that it started prints later is read and dropped.
run() {
	file=$1 dir=$2 limit=$3
	shift 3
	mkfifo "$dir/pipe" || exit 1
	{
		dd bs=1024 count=64 of="$dir/out" 2>/dev/null
		touch "$dir/read"
		exec cat
	} <"$dir/pipe" >/dev/null 2>&1 &
	# A thaw that has moved FILE away did so before the second look, or saw the number.
	setsid sh -c 'echo $$ >"$1" && [ -e "$1" ] || exit 1; shift; "$@"; exit $?' lull-script-run "$file" "$@" </dev/null >"$dir/pipe" 2>&1 &
	leader=$!
	setsid sh -c 'sleep "$1"; touch "$2"; kill -KILL "-$3"' lull-script-limit "$limit" "$dir/late" "$leader" </dev/null >/dev/null 2>&1 &
	limiter=$!
	wait "$leader"
	code=$?
	kill -KILL "$limiter" "-$limiter" 2>/dev/null
	tries=0
	while [ ! -e "$dir/read" ] && [ "$tries" -lt 10 ]; do
		sleep 0.02
		tries=$((tries + 1))
	done
}

# tell VERDICT DIR: the answer to lull: a line, and the beginning of what was printed.
tell() {
	[ ! -e "$2/late" ] || set -- late "$2"
	echo "$1"
	head -c 8192 "$2/out" 2>/dev/null
}
