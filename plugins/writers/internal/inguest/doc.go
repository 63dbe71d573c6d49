// Package inguest is how the writers of databases reach into a guest: scripts for
// /bin/sh that answer in lines, the question which files are on disks of the VM, and
// a process in the guest that makes an application hold still.
//
// What a guest answers is hostile: its length is bounded by the guest service, each
// line is held against what it must be, and nothing of it is ever put into a script.
// What a script is given stands in its arguments.
//
// The scripts need what Debian, Red Hat and their kin always have: a POSIX shell,
// coreutils, and of util-linux flock, setsid and setpriv (or su).
package inguest
