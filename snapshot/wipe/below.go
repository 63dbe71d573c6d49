package wipe

import (
	"os"

	"golang.org/x/sys/unix"
)

// noCopyOnWrite is FS_NOCOW_FL of linux/fs.h.
const noCopyOnWrite = 0x00800000

// Plain asks the file system to overwrite the blocks of a file that is still empty,
// where it would rather write new ones: that is what btrfs calls NOCOW. Others need not
// be asked, or cannot.
func Plain(f *os.File) {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil && onBtrfs(f) {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|noCopyOnWrite)
	}
}

func onBtrfs(f *os.File) bool {
	var s unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &s) == nil && s.Type == unix.BTRFS_SUPER_MAGIC
}

// The magic numbers of file systems that the kernel's headers, or Go's, do not have:
// ZFS on Linux (include/sys/fs/zfs.h) and bcachefs (fs/bcachefs/super-io.c).
const (
	zfsMagic      = 0x2fc12fc1
	bcachefsMagic = 0xca451a4e
)

// Doubt says why overwriting a file in a folder may leave its old blocks behind; empty:
// the file system overwrites them, whatever the device below does.
func Doubt(dir string) (string, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch s.Type {
	case zfsMagic, bcachefsMagic, unix.NILFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC:
		return "its file system writes new blocks and leaves the old ones", nil
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC,
		unix.FUSE_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC:
		return "what its server or the file system below does with old blocks cannot be seen", nil
	}
	return "", nil
}
