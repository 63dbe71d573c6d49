// Package guesttest boots real guests for tests and for the demo: Debian's cloud
// kernel, BusyBox, the QEMU guest agent and a few ext4 disks, on which a program
// writes checksummed records all the time (package record). No root, no mount and
// no network are needed, and the processors are emulated, so that a guest runs
// the same everywhere; it is ready after 3 to 10 seconds.
//
//	image, err := guesttest.Build(ctx, cache)        once; kernel and initramfs
//	guest, err := guesttest.Create(ctx, image, dir, guesttest.Options{Name: "web"})
//	err = guest.Start(ctx)
//	err = guest.WaitReady(ctx)
//	...   guest.QMP and guest.Agent are the sockets for the code under test
//	guest.Kill(); os.RemoveAll(dir)
//
// Tests call New, which does all of this and ends the guest with the test.
//
// A guest has two agents. One is on Guest.Agent and belongs to the code under
// test alone. The other is on Guest.Side: Exec uses it, so that a test can look
// into a guest whose file systems are frozen, without taking the one seat that a
// guest agent's socket has. Neither QMP nor Agent is ever touched after WaitReady.
//
// Each disk carries an ext4 file system labelled data0, data1, ..., mounted at
// /data/0, /data/1, ... The recorder runs over all of them in this order. Its
// acknowledged numbers reach the host through a virtio port of their own
// (Guest.Acked), at no cost to anything under test.
//
// A guest may live in a system on a disk of its own (Options.System) instead of the
// initramfs: with DatabaseOptions that is Debian with PostgreSQL and MariaDB, both
// started at the end of the boot, their files over two more disks. /sbin/ledger in it
// writes numbered rows into both and reports them through Guest.Acked. NativePostgres
// and NativeMariaDB run the same programs on this host, for tests that need no guest.
//
// A program at /run/freeze-hook inside the guest is called with "freeze" before
// and "thaw" after every freeze by the agent: with it a test makes a freeze slow
// or lets it fail.
package guesttest
