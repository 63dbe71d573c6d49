// Package libvirttest runs real libvirt daemons, with real guests, for tests.
//
// A Daemon is one libvirtd in namespaces of its own: it sees none of this machine's
// processes and networks, and its folders in place of /etc/libvirt, /var/lib/libvirt,
// /var/cache/libvirt, /var/log/libvirt and /run. It has a host name and UUID of its own, so
// that domains can be migrated from one to another. So it changes nothing of the host, any
// number of them run side by side, and whatever they start ends with them: when the
// namespaces' first process dies, by the hand of the test or with it, the kernel ends
// all others.
//
//	sh, the first process: makes the mounts, then reaps what is orphaned
//	  libvirtd             entered by nsenter; Kill and Restart leave the guests alone
//	    qemu ...           daemons, whose parent soon is the first process
//
// The daemon's paths are the test's, but for those folders: they are below Daemon.Dir, see
// Outside. Guests are those of guesttest, defined by XML; libvirt has the channel of their
// agent, the test has another.
//
// What QEMU can do is the same for every daemon of a machine, and slow to find out: it is
// kept in the module's .cache.
package libvirttest
