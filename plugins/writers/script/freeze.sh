# STATE TURN LIMIT HOLD THAW N COMMAND... [THAW-COMMAND...]: runs the first N words as a
# command, and sees to it that the program THAW undoes that after HOLD seconds, should
# nobody else.
state=$1 turn=$2 limit=$3 hold=$4 thaw=$5 n=$6
shift 6
begun=$state/begun-$turn
mkdir -p "$state" && mkdir "$begun" || exit 1
# Only now: a thaw that has not seen the folder has left its number before.
for over in "$state"/over-*; do
	if [ "${over##*-}" -ge "$turn" ] 2>/dev/null; then
		rm -rf "$begun"
		echo over
		exit 0
	fi
done
(
	shift "$n"
	# What is not noted any more was undone.
	exec setsid sh -c 'sleep "$1"; [ -d "$2/begun-$3" ] || [ -d "$2/ended-$3" ] || exit; thaw=$4; shift 4; exec sh -c "$thaw" lull-script-thaw "$@"' \
		lull-script-hold "$hold" "$state" "$turn" "$thaw" "$state" $((turn + 1)) "$limit" "$@" </dev/null >/dev/null 2>&1
) &
echo $! >"$begun/hold"

# The first N words are brought to the end, the others dropped.
count=$# i=0
while [ "$i" -lt "$n" ]; do
	set -- "$@" "$1"
	shift
	i=$((i + 1))
done
shift $((count - n))
run "$begun/freeze" "$begun" "$limit" "$@"
[ "$code" != 0 ] || touch "$begun/held" 2>/dev/null
if [ ! -d "$begun" ]; then
	echo over # a thaw came meanwhile
	exit 0
fi
tell "ended $code" "$begun"
