package guesttest

import (
	"compress/gzip"
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
	"strings"
)

// Image is what every guest boots.
type Image struct {
	Kernel string
	Initrd string
}

//go:embed rootfs
var rootfs embed.FS

// wantedModules are the drivers that Debian's cloud kernel does not build in.
var wantedModules = [...]string{"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "sr_mod", "virtio_console", "efivarfs"}

// CacheDir is <module root>/.cache/guest, where packaging/setup.sh puts the
// guest's packages and Build its images.
func CacheDir(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find module root: %w", err)
	}
	mod := strings.TrimSpace(string(out))
	if mod == "" || mod == os.DevNull {
		return "", errors.New("find module root: not inside the lull module")
	}
	return filepath.Join(filepath.Dir(mod), ".cache", "guest"), nil
}

// Build makes the kernel and the initramfs of the test guests from the packages
// in cache, or finds them made already. It is safe to call from several processes
// at once.
func Build(ctx context.Context, cache string) (Image, error) {
	kernel, err := findDeb(cache, "linux-image-*-cloud-amd64_*.deb")
	if err != nil {
		return Image{}, err
	}
	agent, err := findDeb(cache, "qemu-guest-agent_*.deb")
	if err != nil {
		return Image{}, err
	}
	recorder, err := buildRecorder(ctx, cache)
	if err != nil {
		return Image{}, err
	}
	dir := filepath.Join(cache, "image-"+imageKey(kernel, agent, recorder))
	img := Image{Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd.gz")}
	if _, err := os.Stat(dir); err == nil {
		return img, nil
	}
	return img, publish(dir, func(partial string) error {
		return buildImage(ctx, partial, kernel, agent, recorder)
	})
}

// publish lets fill make a folder under another name and then renames it, so
// that dir exists only whole. Another process may win the race with equal content.
func publish(dir string, fill func(partial string) error) error {
	partial, err := os.MkdirTemp(filepath.Dir(dir), "partial-")
	if err != nil {
		return fmt.Errorf("make image folder: %w", err)
	}
	defer os.RemoveAll(partial)
	if err := fill(partial); err != nil {
		return fmt.Errorf("build guest image: %w", err)
	}
	if err := os.Rename(partial, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish image: %w", err)
	}
	return nil
}

// imageKey tells images of different content apart.
func imageKey(kernel, agent string, recorder []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n", filepath.Base(kernel), filepath.Base(agent), wantedModules)
	h.Write(recorder)
	for _, f := range rootFiles() {
		fmt.Fprintf(h, "%s %d\n", f.name, len(f.data))
		h.Write(f.data)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func buildRecorder(ctx context.Context, cache string) ([]byte, error) {
	tmp, err := os.MkdirTemp(cache, "partial-")
	if err != nil {
		return nil, fmt.Errorf("build recorder: %w", err)
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "recorder")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out,
		"github.com/lull-backup/lull/snapshot/guesttest/recorder")
	cmd.Dir = filepath.Dir(filepath.Dir(cache)) // the module's root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build recorder: %w: %s", err, msg)
	}
	return os.ReadFile(out)
}

func buildImage(ctx context.Context, dir, kernelDeb, agentDeb string, recorder []byte) error {
	kernel, err := unpack(ctx, kernelDeb, wantedKernelFile)
	if err != nil {
		return err
	}
	agent, err := unpack(ctx, agentDeb, func(name string) bool { return name == "usr/sbin/qemu-ga" })
	if err != nil {
		return err
	}
	modules := make(map[string][]byte)
	for name, data := range kernel {
		if strings.HasPrefix(name, "boot/") {
			if err := os.WriteFile(filepath.Join(dir, "vmlinuz"), data, 0o644); err != nil {
				return err
			}
			continue
		}
		modules[moduleName(name)] = data
	}
	programs := map[string][]byte{"bin/recorder": recorder, "sbin/qemu-ga": agent["usr/sbin/qemu-ga"]}
	if programs["bin/busybox"], err = os.ReadFile("/bin/busybox"); err != nil {
		return fmt.Errorf("%w: install busybox-static", err)
	}
	return buildInitrd(filepath.Join(dir, "initrd.gz"), modules, programs)
}

func wantedKernelFile(name string) bool {
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return true
	}
	_, inKernel, ok := strings.Cut(name, "/kernel/")
	if !ok || !strings.HasSuffix(name, ".ko") {
		return false
	}
	for _, top := range []string{"drivers/virtio/", "drivers/block/", "drivers/scsi/", "drivers/char/", "drivers/cdrom/", "fs/efivarfs/", "lib/", "crypto/", "arch/", "block/"} {
		if strings.HasPrefix(inKernel, top) {
			return true
		}
	}
	return false
}

func buildInitrd(path string, modules, programs map[string][]byte) error {
	order, err := loadOrder(modules, wantedModules[:])
	if err != nil {
		return err
	}
	libs, err := sharedLibraries(programs["sbin/qemu-ga"])
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	a := newArchive(z)
	for _, name := range []string{"proc", "sys", "dev", "run", "tmp", "data", "usr", "var/log"} {
		a.folder(name)
	}
	a.charDevice("dev/console", 5, 1)
	a.charDevice("dev/null", 1, 3)
	a.addModules(modules, order)
	a.addPrograms(programs, libs)
	return errors.Join(a.close(), z.Close(), f.Sync())
}

func (a *archive) addModules(modules map[string][]byte, order []string) {
	for _, name := range order {
		a.file("lib/modules/"+name+".ko", 0o644, modules[name])
	}
	a.file("lib/modules/order", 0o644, []byte(strings.Join(order, ".ko\n")+".ko\n"))
}

func (a *archive) addPrograms(programs, libs map[string][]byte) {
	for _, files := range []map[string][]byte{programs, libs} {
		for name, data := range files {
			a.file(strings.TrimPrefix(name, "/"), 0o755, data)
		}
	}
	for _, f := range rootFiles() {
		a.file(f.name, 0o755, f.data)
	}
	a.link("init", "bin/busybox")
	a.link("bin/sh", "busybox")
}

// rootFile is a file of the guest's root that comes with this package.
type rootFile struct {
	name string
	data []byte
}

func rootFiles() []rootFile { return embedded(rootfs, "rootfs") }

// embedded are the files below a folder, by their path in it.
func embedded(from embed.FS, top string) []rootFile {
	var files []rootFile
	// An embedded folder has no errors to return.
	_ = fs.WalkDir(from, top, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := from.ReadFile(path)
		files = append(files, rootFile{name: strings.TrimPrefix(path, top+"/"), data: data})
		return err
	})
	return files
}
