# STATE TURN LIMIT [COMMAND...]: undoes every freeze that has a lower turn, and keeps those
# from beginning that are still on their way.
state=$1 turn=$2 limit=$3
shift 3
over=$state/over-$turn
mkdir -p "$over" || exit 1

# A call that was given up may be at it yet: it is let finish.
waited=0
for other in "$state"/over-*/thaw; do
	while alive lull-script-run "$other" && [ "$waited" -lt $((limit * 20)) ]; do
		sleep 0.05
		waited=$((waited + 1))
	done
done
[ "$waited" = 0 ] || sleep 0.2 # until it has removed what it undid

# Moved away first: a freeze that has not left its number by now cannot begin any more.
for begun in "$state"/begun-*; do
	[ -d "$begun" ] && [ "${begun##*-}" -lt "$turn" ] || continue
	mv "$begun" "$state/ended-${begun##*-}" 2>/dev/null || [ ! -d "$begun" ] || exit 1
done
found= held=
for ended in "$state"/ended-*; do
	[ -d "$ended" ] && [ "${ended##*-}" -lt "$turn" ] || continue
	end lull-script-run "$ended/freeze"
	found=yes held=
	[ ! -e "$ended/held" ] || held=yes
done
for old in "$state"/over-*; do
	[ "${old##*-}" -ge "$turn" ] || rm -rf "$old"
done
if [ -z "$found" ]; then
	echo none
	exit 0
fi
code=0
[ $# = 0 ] || run "$over/thaw" "$over" "$limit" "$@"
if [ "$code" = 0 ]; then
	for ended in "$state"/ended-*; do
		[ -d "$ended" ] && [ "${ended##*-}" -lt "$turn" ] || continue
		end lull-script-hold "$ended/hold"
		rm -rf "$ended"
	done
fi
tell "${held:+held }ended $code" "$over"
rm -f "$over"/*
