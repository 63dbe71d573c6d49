// Command lull-bench measures lull: beside other programs, and the choices inside
// it beside each other. The Makefile's bench targets run it; it is no part of the
// product.
//
//	lull-bench peers [-images DIR] ...    lull beside restic, borg, zstd, cp ...: one table, targets met or not
//	lull-bench blocks [-images DIR] ...   ways to cut a disk into blocks: sizes, metadata, processor seconds
//	lull-bench fill [-day 0|1] ...        what packaging/bench-images.sh puts into the images: a database, logs
//
// All of them work on the three disk images that packaging/bench-images.sh makes:
//
//	a.raw    VM A, a Debian system
//	b.raw    VM B, the same distribution with other packages
//	a2.raw   VM A a day later: upgraded in place, its database and logs written to
//
// Sizes are exact and comparable between machines with the same images. Times are
// not: only the ratios within one run say something, which is why programs take
// turns (see peers.go) and medians are compared.
package main
