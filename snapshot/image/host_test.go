package image_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/image"
	"github.com/lull-backup/lull/snapshot/snapshottest"
)

// coldVM makes a VM with a raw disk and one on a chain.
func coldVM(t *testing.T) (dir string, vm image.VM) {
	t.Helper()
	dir = t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write(t, at("data.raw"), mixed(2<<20))
	write(t, at("base.raw"), mixed(3<<20))
	qemuImg(t, "create", "-f", "qcow2", "-b", "base.raw", "-F", "raw", at("root.qcow2"), "4M")
	qemuIO(t, at("root.qcow2"), "qcow2", "write -P 1 100k 50k", "write -z 1M 64k")
	return dir, image.VM{Name: "cold", Disks: []image.DiskSpec{
		{Path: at("root.qcow2"), Format: snapshot.FormatQcow2},
		{Name: "data", Path: at("data.raw"), Format: snapshot.FormatRaw},
	}}
}

func TestConformance(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) *snapshottest.Fixture {
		dir, vm := coldVM(t)
		spec := map[string]image.DiskSpec{"root": vm.Disks[0], "data": vm.Disks[1]}
		return &snapshottest.Fixture{
			Host:    image.NewHost([]image.VM{vm}),
			VM:      vm.Name,
			Reopen:  func(testing.TB) snapshot.Host { return image.NewHost([]image.VM{vm}) },
			Content: func(t testing.TB, disk string) []byte { return content(t, spec[disk].Path, string(spec[disk].Format)) },
			Files:   func(t testing.TB) []string { return names(t, dir) },
		}
	})
}

// TestConformanceOfCheckpoints holds the host to the contract with what Hyper-V leaves.
func TestConformanceOfCheckpoints(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) *snapshottest.Fixture {
		dir := t.TempDir()
		paths, disk := lineage(t, dir, snapshot.FormatVHDX)
		vm := image.VM{Name: "cold", Disks: []image.DiskSpec{{Name: "root", Path: paths[0], Format: snapshot.FormatVHDX}}}
		return &snapshottest.Fixture{
			Host:    image.NewHost([]image.VM{vm}),
			VM:      vm.Name,
			Reopen:  func(testing.TB) snapshot.Host { return image.NewHost([]image.VM{vm}) },
			Content: func(testing.TB, string) []byte { return disk },
			Files:   func(t testing.TB) []string { return names(t, dir) },
		}
	})
}

func TestMissingImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone.raw")
	host := image.NewHost([]image.VM{{Name: "vm", Disks: []image.DiskSpec{{Path: path, Format: snapshot.FormatRaw}}}})
	vms, err := host.VMs(t.Context())
	if err != nil || len(vms) != 1 || vms[0].State != snapshot.StateUnreachable || !strings.Contains(vms[0].Problem, path) {
		t.Errorf("VMs: %+v, %v", vms, err)
	}
	if _, err := host.Plan(t.Context(), "vm", "run"); !errors.Is(err, snapshot.ErrUnreachable) || !strings.Contains(err.Error(), path) {
		t.Errorf("Plan: %v", err)
	}
}

func TestDiskNames(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "disk.raw"), make([]byte, 4096))
	spec := func(name string) image.DiskSpec {
		return image.DiskSpec{Name: name, Path: path, Format: snapshot.FormatRaw}
	}
	for _, tc := range []struct{ given, want []string }{
		{[]string{""}, []string{"disk"}},
		{[]string{"", "", "disk"}, []string{"disk-2", "disk-3", "disk"}},
		{[]string{"a", "a"}, nil},
		{nil, nil},
	} {
		vm := image.VM{Name: "vm"}
		for _, n := range tc.given {
			vm.Disks = append(vm.Disks, spec(n))
		}
		p, err := image.NewHost([]image.VM{vm}).Plan(t.Context(), "vm", "run")
		if (err == nil) != (tc.want != nil) {
			t.Errorf("%q: %v", tc.given, err)
		}
		var got []string
		for _, d := range p.Disks {
			got = append(got, d.Name)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%q: %s", tc.given, diff)
		}
	}
}

// TestChangedSincePlan lets the VM run between Plan and Prepare.
func TestChangedSincePlan(t *testing.T) {
	dir, vm := coldVM(t)
	host := image.NewHost([]image.VM{vm})
	p, err := host.Plan(t.Context(), "cold", "run")
	if err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "resize", "-f", "qcow2", filepath.Join(dir, "root.qcow2"), "5M")
	if err := host.Prepare(t.Context(), p); !errors.Is(err, snapshot.ErrBusy) {
		t.Errorf("Prepare: %v", err)
	}
	if err := host.Take(t.Context(), p); err == nil {
		t.Error("Take after a failed Prepare")
	}
	if err := host.Merge(t.Context(), p); err != nil {
		t.Error(err)
	}
}
