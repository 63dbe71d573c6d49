package guesttest

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// MySQL is a tree of Debian unstable with the server and its client, and a data directory
// of it that is empty. Its programs need libraries that are newer than this host's,
// and the loader of those.
type MySQL struct{ Tree, Data string }

// mysqlRecipe changes with the code below.
const mysqlRecipe = 1

// BuildMySQL makes the tree from the packages in cache, or finds it made already.
func BuildMySQL(ctx context.Context, cache string) (MySQL, error) {
	debs, err := filepath.Glob(filepath.Join(cache, "mysql", "*.deb"))
	if err != nil || len(debs) == 0 {
		return MySQL{}, fmt.Errorf("no packages in %s: run packaging/setup.sh guest, which downloads them", filepath.Join(cache, "mysql"))
	}
	h := sha256.New()
	for _, d := range debs {
		fmt.Fprintln(h, filepath.Base(d))
	}
	fmt.Fprintln(h, mysqlRecipe)
	dir := filepath.Join(cache, "image-mysql-"+hex.EncodeToString(h.Sum(nil)[:8]))
	out := MySQL{Tree: filepath.Join(dir, "tree"), Data: filepath.Join(dir, "data")}
	if _, err := os.Stat(dir); err == nil {
		return out, nil
	}
	return out, publish(dir, func(partial string) error { return buildMySQL(ctx, partial, debs) })
}

func buildMySQL(ctx context.Context, dir string, debs []string) error {
	tree := filepath.Join(dir, "tree")
	for _, d := range debs {
		if err := tool(ctx, "dpkg", "dpkg-deb", "--extract", d, tree); err != nil {
			return err
		}
	}
	for _, name := range []string{"doc", "man", "lintian", "locale"} {
		if err := os.RemoveAll(filepath.Join(tree, "usr/share", name)); err != nil {
			return err
		}
	}
	work, err := os.MkdirTemp("", workPattern) // that another user can reach
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	own := filepath.Join(work, "own")
	for _, step := range []error{os.Chmod(work, 0o755), os.Mkdir(own, 0o755), OrdinaryUser().own(own)} {
		if step != nil {
			return step
		}
	}
	n := &Native{Tree: filepath.Join(work, "tree"), Data: filepath.Join(own, "data")}
	if err := linkTree(ctx, tree, n.Tree); err != nil {
		return err
	}
	if err := n.bringLoader(work); err != nil {
		return err
	}
	cmd := TreeCommand(ctx, n.Tree, mysqld, append(n.mysqlPlaces(), "--initialize-insecure")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make an empty MySQL: %w: %s", err, out)
	}
	return tool(ctx, "coreutils", "cp", "-a", n.Data, filepath.Join(dir, "data"))
}

const (
	mysqld       = "usr/sbin/mysqld"
	mysqlClient  = "usr/bin/mysql"
	mysqlLibrary = "usr/lib/x86_64-linux-gnu"
	mysqlLoader  = mysqlLibrary + "/ld-linux-x86-64.so.2"
	workPattern  = "lull-db-"
)

// mysqlPlaces are where a server finds its files, and how it does with little.
func (n *Native) mysqlPlaces() []string {
	share := filepath.Join(n.Tree, "usr/share/mysql")
	return []string{
		"--no-defaults", "--basedir=" + filepath.Join(n.Tree, "usr"), "--datadir=" + n.Data, "--tmpdir=" + filepath.Dir(n.Data), "--lc-messages-dir=" + share,
		"--character-sets-dir=" + filepath.Join(share, "charsets"), "--plugin-dir=" + filepath.Join(n.Tree, "usr/lib/mysql/plugin"),
		"--secure-file-priv=NULL", "--innodb-redo-log-capacity=16M", "--innodb-buffer-pool-size=16M", "--innodb-use-native-aio=0",
	}
}

// bringLoader has the programs of the tree load their libraries by the loader that goes with
// those, whose path stands in each program. The client is run by anyone's shell, which must
// not see those libraries: it becomes a script that shows them to the program alone.
func (n *Native) bringLoader(dir string) error {
	loader := filepath.Join(dir, "ld")
	if err := os.Symlink(filepath.Join(n.Tree, mysqlLoader), loader); err != nil {
		return err
	}
	program := filepath.Join(n.Tree, mysqlClient+".program")
	if err := os.Rename(filepath.Join(n.Tree, mysqlClient), program); err != nil {
		return err
	}
	script := fmt.Sprintf("#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s \"$@\"\n", filepath.Join(n.Tree, mysqlLibrary), program)
	return errors.Join(setLoader(program, loader), setLoader(filepath.Join(n.Tree, mysqld), loader),
		os.WriteFile(filepath.Join(n.Tree, mysqlClient), []byte(script), 0o755))
}

// setLoader puts another loader into a program, which others may have a link to.
func setLoader(path, loader string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	f, err := elf.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 || len(loader) >= int(f.Progs[i].Filesz) {
		return fmt.Errorf("%s: no room for the loader %s: set TMPDIR to /tmp", path, loader)
	}
	place := data[f.Progs[i].Off:][:f.Progs[i].Filesz]
	clear(place)
	copy(place, loader)
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o755)
}

// NativeMySQL starts a MySQL that ends with the test. Root, and who runs the test, log in
// over the socket, as in Debian's packages.
func NativeMySQL(t testing.TB) *Native {
	t.Helper()
	built := builtMySQL(t)
	n := newNative(t, built.Tree)
	if err := n.bringLoader(filepath.Dir(n.Tree)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", built.Data, n.Data).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", built.Data, err, out)
	}
	n.startMySQL(t)
	return n
}

// MySQLOn starts another one, on a copy of a data directory of the first.
func (n *Native) MySQLOn(t testing.TB, data string) *Native {
	t.Helper()
	other := &Native{Tree: n.Tree, Data: data}
	other.startMySQL(t)
	return other
}

func (n *Native) startMySQL(t testing.TB) {
	t.Helper()
	dir := filepath.Dir(n.Data)
	n.Socket, n.client, n.Env = filepath.Join(dir, "socket"), filepath.Join(n.Tree, mysqlClient), nil
	logins := "ALTER USER root@localhost IDENTIFIED WITH auth_socket;\n"
	if me := user(); me != "root" {
		logins += fmt.Sprintf("CREATE USER IF NOT EXISTS '%[1]s'@localhost IDENTIFIED WITH auth_socket;\nGRANT ALL ON *.* TO '%[1]s'@localhost WITH GRANT OPTION;\n", me)
	}
	file := filepath.Join(dir, "logins.sql")
	for _, step := range []error{os.WriteFile(file, []byte(logins), 0o644), OrdinaryUser().own(dir)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	n.start(t, syscall.SIGTERM, mysqld, append(n.mysqlPlaces(), "--socket="+n.Socket, "--skip-networking", "--mysqlx=OFF", "--plugin-load-add=auth_socket.so",
		"--init-file="+file, "--pid-file="+filepath.Join(dir, "pid"), "--log-error-verbosity=1")...)
	ctx, cancel := context.WithTimeout(t.Context(), nativeLimit)
	defer cancel()
	n.await(ctx, t, func() error { _, err := n.MariaDB(ctx, "SELECT 1"); return err })
}

// builtMySQL is BuildMySQL for a test.
func builtMySQL(t testing.TB) MySQL {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	cache, err := CacheDir(ctx)
	if err != nil {
		t.Fatal(err)
	}
	built, err := BuildMySQL(ctx, cache)
	if err != nil {
		t.Fatal(err)
	}
	return built
}
