package guesttest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Databases are what a guest with PostgreSQL and MariaDB is made of: a Debian
// system with both, and the disks that hold an empty database of each.
//
// On the first disk are PostgreSQL's data directory (/data/0/postgres) and
// MariaDB's (/data/0/mysql); on the second PostgreSQL's WAL, a folder for a
// tablespace (/data/1/space), and MariaDB's binary log.
type Databases struct {
	Tree   string   // the system as a folder, for tests that run a database on this host
	System string   // the system as a raw image
	Disks  []string // raw images
}

//go:embed dbroot
var dbroot embed.FS

const databaseDiskSize = 256 << 20

// BuildDatabases makes the images from the packages in cache, or finds them made
// already. The databases are initialized on this host: they are Debian's programs,
// and run on it with their own libraries.
func BuildDatabases(ctx context.Context, cache string) (Databases, error) {
	debs, err := filepath.Glob(filepath.Join(cache, "databases", "*.deb"))
	if err != nil || len(debs) == 0 {
		return Databases{}, fmt.Errorf("no packages in %s: run packaging/setup.sh guest, which downloads them", filepath.Join(cache, "databases"))
	}
	dir := filepath.Join(cache, "image-db-"+databaseKey(debs))
	out := Databases{Tree: filepath.Join(dir, "tree"), System: filepath.Join(dir, "system.raw")}
	for i := range 2 {
		out.Disks = append(out.Disks, filepath.Join(dir, fmt.Sprintf("disk%d.raw", i)))
	}
	if _, err := os.Stat(dir); err == nil {
		return out, nil
	}
	return out, publish(dir, func(partial string) error { return buildDatabases(ctx, partial, debs) })
}

func databaseKey(debs []string) string {
	h := sha256.New()
	for _, d := range debs {
		fmt.Fprintln(h, filepath.Base(d))
	}
	for _, f := range embedded(dbroot, "dbroot") {
		fmt.Fprintf(h, "%s %d\n%s", f.name, len(f.data), f.data)
	}
	fmt.Fprintln(h, dropped(), databaseRecipe)
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// databaseRecipe changes with the code below.
const databaseRecipe = 1

// dropped are the parts of the packages that no test needs.
func dropped() []string {
	return []string{
		"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/lib/x86_64-linux-gnu/gconv",
		"usr/lib/postgresql/15/lib/bitcode", "usr/bin/innochecksum", "usr/bin/mariadb-upgrade", "usr/share/bash-completion",
	}
}

func buildDatabases(ctx context.Context, dir string, debs []string) error {
	// A folder that another user can reach: PostgreSQL does not run as root.
	work, err := os.MkdirTemp("", "lull-databases-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	if err := makeTree(ctx, tree, debs); err != nil {
		return err
	}
	disks := []string{filepath.Join(work, "0"), filepath.Join(work, "1")}
	if err := initDatabases(ctx, tree, disks); err != nil {
		return err
	}
	if err := makeFilesystem(ctx, filepath.Join(dir, "system.raw"), systemLabel, Disk{Size: systemSize, Content: tree}); err != nil {
		return err
	}
	for i, content := range disks {
		image := filepath.Join(dir, fmt.Sprintf("disk%d.raw", i))
		if err := makeFilesystem(ctx, image, fmt.Sprintf("data%d", i), Disk{Size: databaseDiskSize, Content: content}); err != nil {
			return err
		}
	}
	return tool(ctx, "coreutils", "cp", "-a", tree, filepath.Join(dir, "tree"))
}

// makeTree unpacks the packages and puts this package's own files over them.
func makeTree(ctx context.Context, tree string, debs []string) error {
	for _, d := range debs {
		if err := tool(ctx, "dpkg", "dpkg-deb", "--extract", d, tree); err != nil {
			return err
		}
	}
	for _, name := range dropped() {
		if err := os.RemoveAll(filepath.Join(tree, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{"proc", "sys", "dev", "run", "tmp", "data", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, name), 0o755); err != nil {
			return err
		}
	}
	for _, f := range embedded(dbroot, "dbroot") {
		if err := os.WriteFile(filepath.Join(tree, f.name), f.data, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(tree, "etc/my.cnf"), 0o644); err != nil { // MariaDB ignores it where others may write
		return err
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return fmt.Errorf("%w: install busybox-static", err)
	}
	if err := os.WriteFile(filepath.Join(tree, "bin/busybox"), busybox, 0o755); err != nil {
		return err
	}
	// What Debian always has and these packages do not.
	for name, target := range map[string]string{"sh": "dash", "grep": "busybox", "sed": "busybox", "awk": "busybox", "find": "busybox", "ps": "busybox", "kill": "busybox", "mount": "busybox"} {
		if err := os.Symlink(target, filepath.Join(tree, "bin", name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// initDatabases makes an empty database of each kind, as they lie on the disks.
func initDatabases(ctx context.Context, tree string, disks []string) error {
	for _, d := range append(slices.Clone(disks), filepath.Join(disks[1], "space"), filepath.Join(disks[1], "binlog")) {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	owner := OrdinaryUser()
	for _, d := range disks {
		if err := owner.own(d); err != nil {
			return err
		}
	}
	pg, my, wal := filepath.Join(disks[0], "postgres"), filepath.Join(disks[0], "mysql"), filepath.Join(disks[1], "wal")
	if err := InitPostgres(ctx, tree, pg, "-U", "postgres", "--wal-segsize=1"); err != nil {
		return err
	}
	if err := InitMariaDB(ctx, tree, my); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(pg, "pg_wal"), wal); err != nil {
		return err
	}
	if err := os.Symlink("/data/1/wal", filepath.Join(pg, "pg_wal")); err != nil {
		return err
	}
	conf, err := os.OpenFile(filepath.Join(pg, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	own, err := dbroot.ReadFile("dbroot/etc/postgresql.conf")
	if err == nil {
		_, err = conf.Write(own)
	}
	return errors.Join(err, conf.Close())
}

// InitPostgres makes a data directory with a program of the tree.
func InitPostgres(ctx context.Context, tree, dir string, args ...string) error {
	cmd := TreeCommand(ctx, tree, "usr/lib/postgresql/15/bin/initdb", append([]string{
		"-D", dir, "-A", "peer", "--data-checksums", "-E", "UTF8", "--locale=C", "--no-sync"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, out)
	}
	return nil
}

// InitMariaDB is InitPostgres for MariaDB. Root, and who owns the files, may log in over the socket.
// Its temporary files have a folder of their own: a server that starts deletes every #sql* in its own,
// so that two that share /tmp abort each other.
func InitMariaDB(ctx context.Context, tree, dir string) error {
	cmd := TreeCommand(ctx, tree, "usr/bin/mariadb-install-db", "--no-defaults", "--basedir="+filepath.Join(tree, "usr"), "--datadir="+dir, "--tmpdir="+dir,
		"--auth-root-authentication-method=socket", "--skip-name-resolve", "--skip-test-db", "--innodb-log-file-size=8M", "--innodb-use-native-aio=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run mariadb-install-db: %w: %s", err, out)
	}
	return nil
}

// TreeCommand runs a program of the tree on this host, with the tree's libraries, and
// never as root: as nobody then.
func TreeCommand(ctx context.Context, tree, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(tree, program), args...)
	cmd.Env = []string{
		"PATH=" + filepath.Join(tree, "usr/bin") + ":/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=GMT",
		"LD_LIBRARY_PATH=" + strings.Join([]string{filepath.Join(tree, "usr/lib/x86_64-linux-gnu"), filepath.Join(tree, "lib/x86_64-linux-gnu")}, ":"),
	}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if u := OrdinaryUser(); u.UID != os.Geteuid() {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	}
	return cmd
}

// User owns processes and files.
type User struct{ UID, GID int }

// OrdinaryUser is this process's, or nobody where that is root.
func OrdinaryUser() User {
	const nobody = 65534
	if os.Geteuid() == 0 {
		return User{nobody, nobody}
	}
	return User{os.Geteuid(), os.Getegid()}
}

func (u User) own(dir string) error {
	if u.UID == os.Geteuid() {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return cmp.Or(err, os.Lchown(path, u.UID, u.GID))
	})
}
