package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
	"github.com/lull-backup/lull/snapshot/qmp"
)

var _ snapshot.Comparer = (*Host)(nil)

// Compare looks at QEMU's chain, at the record of a manager and at the files beside it. With
// QEMU gone only the plan, or that record, says which files these are.
func (h *Host) Compare(ctx context.Context, vm string, owned *snapshot.Plan) ([]snapshot.Finding, error) {
	l, err := h.line(vm)
	if err != nil {
		return nil, err
	}
	var s *survey
	for range mergeTries { // QEMU may end under the first look
		s = &survey{host: h, vm: vm, owned: owned}
		err = l.use(ctx, func(m *monitor) error { return s.live(ctx, m) })
		if !errors.Is(err, qmp.ErrClosed) {
			break
		}
	}
	switch {
	case !l.off(err):
	case l.vm.Manager != nil:
		err = s.managedOff(ctx, l.vm)
	case owned != nil:
		err = s.offline(ctx, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("compare %s: %w", vm, err)
	}
	return s.found, nil
}

// survey is one look at a VM.
type survey struct {
	host  *Host
	vm    string
	owned *snapshot.Plan
	found []snapshot.Finding
	seen  map[string]bool // files that a finding is about
	off   bool            // no QEMU runs
}

func (s *survey) add(f snapshot.Finding) {
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	if f.Path != "" {
		if s.seen[f.Path] {
			return
		}
		s.seen[f.Path] = true
	}
	s.found = append(s.found, f)
}

// refuse adds what Merge would say.
func (s *survey) refuse(kind snapshot.FindingKind, d snapshot.DiskPlan, path string, err error) {
	f := snapshot.Finding{Kind: kind, Disk: d.Name, Path: path, Run: runOf(path), Text: err.Error()}
	var hint *snapshot.Hinted
	if errors.As(err, &hint) {
		f.Next = hint.Next
	}
	s.add(f)
}

const (
	mergeLater = "let lull merge it: start the agent, or back the VM up"
	asGood     = "its merge was as good as done, and is proven by comparing it with the image"
	notFrom    = "do not start the VM from the image meanwhile"
)

// live compares with QEMU there.
func (s *survey) live(ctx context.Context, m *monitor) error {
	f, err := m.inspect(ctx)
	if err != nil {
		return err
	}
	if s.owned != nil {
		if err := s.ownedLive(ctx, m, f); err != nil {
			return err
		}
	}
	for i, d := range f.disks {
		if err := s.orphansOf(m, d, i); err != nil {
			return err
		}
	}
	if m.vm.Manager != nil {
		if err := s.record(ctx, m.vm, f.disks); err != nil {
			return err
		}
	}
	return s.strays(ctx, m)
}

// ownedLive holds the journal's plan against QEMU.
func (s *survey) ownedLive(ctx context.Context, m *monitor, f found) error {
	p := *s.owned
	if err := m.movedAway(ctx, p); err != nil {
		s.refuse(snapshot.FindingMoved, p.Disks[0], p.Disks[0].Delta, err)
	}
	same := p.Instance != "" && m.proc.instance == p.Instance
	for _, d := range p.Disks {
		v, err := m.look(ctx, d)
		if err != nil {
			return err
		}
		switch {
		case v.top != "" || v.committing:
			if err := unshot(d); err != nil {
				s.refuse(snapshot.FindingRefused, d, d.Delta, err)
				continue
			}
			s.owe(d, "the VM writes to it")
		default:
			if err := s.ownedFile(d, same && v.onDevice, m.vm.Manager != nil); err != nil {
				return err
			}
		}
	}
	s.drift(p, f, same)
	return nil
}

// ownedFile looks at the file of a delta that is not on a device.
func (s *survey) ownedFile(d snapshot.DiskPlan, seen, managed bool) error {
	plain, merged, err := fileOf(d).exists()
	if err != nil || !plain && !merged {
		return err
	}
	path := d.Delta
	if !plain {
		path += mergedSuffix
	}
	empty, err := untouched(path)
	if err != nil {
		s.refuse(snapshot.FindingRefused, d, path, err)
		return nil
	}
	if empty || seen && !plain || managed && pivoted(d) {
		s.owe(d, "it holds nothing that the image lacks")
		return nil
	}
	s.refuse(snapshot.FindingRefused, d, path, diverged(d, path))
	return nil
}

func (s *survey) owe(d snapshot.DiskPlan, how string) {
	s.add(snapshot.Finding{Kind: snapshot.FindingOwed, Disk: d.Name, Path: d.Delta, Run: runOf(d.Delta),
		Text: fmt.Sprintf("the delta %s of a run that was cut off is there: %s", d.Delta, how), Next: mergeLater})
}

// drift tells which disks came and went since the plan was made.
func (s *survey) drift(p snapshot.Plan, f found, same bool) {
	if !same {
		return
	}
	for _, d := range f.disks {
		if !slices.ContainsFunc(p.Disks, func(x snapshot.DiskPlan) bool { return x.Device == d.QDev }) &&
			!slices.ContainsFunc(p.Excluded, func(x snapshot.Excluded) bool { return x.Disk.Name == d.Name }) {
			s.found = append(s.found, snapshot.Finding{Kind: snapshot.FindingAdded, Disk: d.Name, Path: d.Path, Run: p.Run,
				Text: fmt.Sprintf("disk %s was plugged in during the run", d.Name)})
		}
	}
	for _, x := range p.Disks {
		if !slices.ContainsFunc(f.disks, func(d disk) bool { return d.QDev == x.Device }) {
			s.found = append(s.found, snapshot.Finding{Kind: snapshot.FindingRemoved, Disk: x.Name, Path: x.Path, Run: p.Run,
				Text: fmt.Sprintf("disk %s was unplugged during the run", x.Name)})
		}
	}
}

// offline holds the journal's plan against the files alone.
func (s *survey) offline(ctx context.Context, mgr Manager) error {
	for _, d := range s.owned.Disks {
		if err := s.offlineDisk(ctx, mgr, d); err != nil {
			return fmt.Errorf("disk %s: %w", d.Name, err)
		}
	}
	return nil
}

func (s *survey) offlineDisk(ctx context.Context, mgr Manager, d snapshot.DiskPlan) error {
	plain, merged, err := fileOf(d).exists()
	if err != nil {
		return err
	}
	if merged && !plain {
		s.owe(d, asGood)
		return nil
	}
	if !plain {
		return nil
	}
	named := false // as long as a manager's record names the delta nobody ran the image alone
	if mgr != nil {
		named, _, err = mgr.Names(ctx, d)
		switch {
		case errors.Is(err, ErrMoved):
			s.refuse(snapshot.FindingMoved, d, d.Delta, err)
			return nil
		case errors.Is(err, snapshot.ErrBusy):
			s.refuse(snapshot.FindingRefused, d, d.Delta, err)
			return nil
		case err != nil:
			return err
		}
	}
	if err := closed(d.Delta); err != nil {
		s.refuse(snapshot.FindingRefused, d, d.Delta, err)
		return nil
	}
	if empty, err := untouched(d.Delta); err != nil {
		s.refuse(snapshot.FindingRefused, d, d.Delta, err)
		return nil
	} else if empty {
		s.owe(d, "nothing was written to it")
		return nil
	}
	if mgr != nil && pivoted(d) {
		s.owe(d, asGood)
		return nil
	}
	v, err := judge(d, named)
	if err != nil {
		return err
	}
	s.judged(d, v)
	return nil
}

// judged tells of a delta with writes whose QEMU has gone.
func (s *survey) judged(d snapshot.DiskPlan, v verdict) {
	was, err := readStamp(d)
	half := err == nil && was.state == stampCommit
	switch {
	case v == foreign:
		s.refuse(snapshot.FindingRefused, d, d.Delta, overwritten(d))
	case v == away:
		s.refuse(snapshot.FindingMoved, d, d.Delta, leftBehind(d))
	case v == unknown:
		s.refuse(snapshot.FindingRefused, d, d.Delta, uncertain(d))
	case d.Key != "":
		s.refuse(snapshot.FindingRefused, d, d.Delta, sealed(d, d.Delta))
	case half:
		s.add(snapshot.Finding{Kind: snapshot.FindingHalf, Disk: d.Name, Path: d.Delta, Run: runOf(d.Delta),
			Text: fmt.Sprintf("%s is half merged: the VM ended while %s was committed to it", d.Path, d.Delta), Next: mergeLater + "; " + notFrom})
	default:
		s.add(snapshot.Finding{Kind: snapshot.FindingOwed, Disk: d.Name, Path: d.Delta, Run: runOf(d.Delta),
			Text: fmt.Sprintf("%s holds what the VM wrote last, and %s lacks it", d.Delta, d.Path), Next: mergeLater + "; " + notFrom})
	}
}

// ownsFile tells whether a file is of the plan on record.
func (s *survey) ownsFile(path string) bool {
	return s.owned != nil && runOf(path) == s.owned.Run
}

// runOf is the run in the name of a file that a run makes beside a disk; empty: it is
// none. Checkpoints have files there, too, with names like these.
func runOf(path string) string {
	name := filepath.Base(path)
	i := strings.LastIndex(name, ".lull-")
	if i < 0 {
		return ""
	}
	run, kind, _ := strings.Cut(name[i+len(".lull-"):], ".")
	kind = strings.TrimSuffix(kind, wipedSuffix)
	ours := slices.Contains([]string{"delta", "delta" + mergedSuffix, "delta" + stampSuffix, "delta" + mapSuffix, "delta" + anchorSuffix}, kind)
	if !ours || checkRun(run) != nil {
		return ""
	}
	return run
}

// orphansOf finds the deltas of a disk that no run on record owns, in its chain and
// beside it.
func (s *survey) orphansOf(m *monitor, d disk, place int) error {
	for i, l := range d.layers {
		if isDelta(l.Path) && !s.ownsFile(l.Path) {
			s.inChain(m, d, i, place)
		}
	}
	return s.orphansBeside(m.vm, d)
}

// orphansBeside finds the files beside a disk that no run on record owns.
func (s *survey) orphansBeside(vm VM, d disk) error {
	names, err := s.host.besides(vm, d)
	if err != nil {
		return err
	}
	for _, path := range names {
		if !s.ownsFile(path) {
			s.beside(d, path)
		}
	}
	return nil
}

// besides lists the files of lull's that are where the deltas of a disk are: where they go
// by the configuration of now, and beside the image, where a link leads to one elsewhere.
func (h *Host) besides(vm VM, d disk) ([]string, error) {
	image := imageOf(d)
	delta, link, err := h.place(vm, image, "0")
	if err != nil {
		return nil, err
	}
	var list []string
	for _, at := range []string{delta, link} {
		if at == "" {
			continue
		}
		found, err := ofDisk(at, h.inFolder(vm.Name, image.Name))
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// imageOf is a disk as it is without lull's deltas.
func imageOf(d disk) disk {
	for _, l := range d.layers {
		if d.Path = l.Path; !isDelta(l.Path) {
			break
		}
	}
	return d
}

// ofDisk lists what is in a folder of the disk whose delta of run "0" would be at a path. A
// link is followed where a delta of the very disk and run would be, inFolder: others may
// have made links there, and what they lead to is not to be advised about.
func ofDisk(delta, inFolder string) (list []string, err error) {
	stem, dir := strings.TrimSuffix(delta, "0.delta"), filepath.Dir(delta)
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for earlier deltas: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(path, stem) || runOf(path) == "" {
			continue
		}
		to, err := os.Readlink(path)
		there, _ := exists(to)
		own := filepath.IsAbs(to) && filepath.Base(to) == inFolder+".lull-"+strings.TrimPrefix(path, stem)
		if err == nil && there && own { // else the link itself is what is left
			path = to
		}
		list = append(list, path)
	}
	return list, nil
}

// inChain tells of a delta that the VM writes to, or has below.
func (s *survey) inChain(m *monitor, d disk, layer, place int) {
	path := d.layers[layer].Path
	f := snapshot.Finding{Kind: snapshot.FindingOrphan, Disk: d.Name, Path: path, Run: runOf(path)}
	if layer > 0 || len(d.layers) < 2 {
		f.Text = fmt.Sprintf("the delta %s is in the chain of the disk, below another layer", path)
		f.Next = "merge the layer above it with the tool that made it; lull merges this one then"
		s.add(f)
		return
	}
	f.Text = fmt.Sprintf("the VM writes to the delta %s, and no run on record owns it", path)
	f.Next = "merge it: lull recover, with the name of the VM"
	below := d.Disk
	below.Path, below.Format = d.layers[1].Path, d.layers[1].Format
	node := d.Inserted.Node
	if !strings.HasPrefix(node, nodePrefix) { // the VM was started from it
		node = deltaNode(m.vm.Name, f.Run, place)
	}
	f.Adopt = &snapshot.Plan{Host: s.host.opt.Kind, VM: m.vm.Name, Run: f.Run, Instance: m.proc.instance, State: snapshot.StateRunning,
		Disks: []snapshot.DiskPlan{{Disk: below, Device: d.QDev, Delta: path, DeltaNode: node, Chain: d.layers[1:],
			Link: s.host.linkTo(m.vm, d, f.Run, path), Wipe: m.vm.Wipe}}}
	s.add(f)
}

// linkTo is the link beside a disk's image that leads to a delta of it; empty: there is none.
func (h *Host) linkTo(vm VM, d disk, run, delta string) string {
	vm.DeltaDir = filepath.Dir(delta)
	_, link, err := h.place(vm, imageOf(d), run)
	if to, readErr := os.Readlink(link); err != nil || readErr != nil || to != delta {
		return ""
	}
	return link
}

// beside tells of a file that lies beside the disk.
func (s *survey) beside(d disk, path string) {
	f := snapshot.Finding{Kind: snapshot.FindingStray, Disk: d.Name, Path: path, Run: runOf(path)}
	if to, err := os.Readlink(path); err == nil {
		f.Kind = snapshot.FindingOrphan
		f.Text = fmt.Sprintf("%s is a link to %s, where no delta of the disk is", path, to)
		f.Next = "rm " + snapshot.ShellWord(path)
		s.add(f)
		return
	}
	used, err := inUse(path)
	switch {
	case err != nil:
		f.Text = fmt.Sprintf("%s cannot be looked at: %v", path, err)
	case used && isDelta(path):
		f.Kind = snapshot.FindingOrphan
		f.Text = fmt.Sprintf("%s is open in a process, and no run on record owns it", path)
		f.Next = "find the process with lsof; if another lull backs this VM up, give both the same state_dir"
	case isDelta(path):
		s.orphanFile(d, &f)
	case strings.HasSuffix(path, wipedSuffix):
		f.Text = fmt.Sprintf("%s was merged and is to be wiped, by a run that is not on record", path)
		f.Next = "shred -n 0 -z -u " + snapshot.ShellWord(path)
	default:
		f.Text = fmt.Sprintf("%s was left behind by a run that is not on record", path)
		f.Next = "rm " + snapshot.ShellWord(path)
	}
	s.add(f)
}

func (s *survey) orphanFile(d disk, f *snapshot.Finding) {
	f.Kind = snapshot.FindingOrphan
	word := snapshot.ShellWord(f.Path)
	if empty, err := untouched(f.Path); err == nil && empty {
		f.Text = fmt.Sprintf("%s is a delta to which nothing was written, and no run on record owns it", f.Path)
		f.Next = "rm " + word
		return
	}
	without := "the VM runs without it: its image has moved on, and the two fit no more"
	if s.off {
		without = "the VM starts without it"
	}
	f.Text = fmt.Sprintf("%s is a delta with writes that no run on record owns, and %s", f.Path, without)
	f.Next = fmt.Sprintf("to keep the disk as it is now, rm %s; do not commit it: to go back, restore a point of the VM", word)
}

// strays finds what lull made inside QEMU and no run on record owns.
func (s *survey) strays(ctx context.Context, m *monitor) error {
	stem := ""
	if s.owned != nil {
		stem = runName(s.owned.VM, s.owned.Run)
	}
	foreign := func(name string) bool {
		return strings.HasPrefix(name, nodePrefix) && (stem == "" || !strings.HasPrefix(name, stem))
	}
	jobs, err := m.jobs(ctx)
	if err != nil {
		return err
	}
	for _, j := range jobs {
		if foreign(j.ID) {
			s.stray(fmt.Sprintf("the job %s (%s)", j.ID, j.Status), "job-cancel", "id", j.ID)
		}
	}
	exports, err := m.exports(ctx)
	if err != nil {
		return err
	}
	for _, e := range exports {
		if foreign(e.ID) {
			s.stray("the export "+e.ID, "block-export-del", "id", e.ID)
		}
	}
	return s.strayNodes(ctx, m, foreign)
}

// strayNodes finds open nodes of lull's that are in no chain of a disk.
func (s *survey) strayNodes(ctx context.Context, m *monitor, foreign func(string) bool) error {
	nodes, err := m.nodes(ctx, true)
	if err != nil {
		return err
	}
	drives, err := m.drives(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{} // files
	for _, b := range drives {
		if b.Inserted == nil {
			continue
		}
		for l := &b.Inserted.Image; l != nil; l = l.Backing {
			if path, ok := m.path(l.Filename); ok {
				used[path] = true
			}
		}
	}
	slices.SortFunc(nodes, func(a, b inserted) int { return strings.Compare(a.Node, b.Node) }) // a node before its file
	for _, n := range nodes {
		if path, ok := m.path(n.File); foreign(n.Node) && !(ok && used[path]) {
			what := "the node " + n.Node
			if strings.Contains(n.Node, "-anchor") {
				what += ", which keeps the VM from being migrated,"
			}
			s.stray(what, "blockdev-del", "node-name", n.Node)
		}
	}
	return nil
}

func (s *survey) stray(what, command, key, value string) {
	s.found = append(s.found, snapshot.Finding{Kind: snapshot.FindingStray, Text: what + " in QEMU is of a run that is not on record",
		Next: fmt.Sprintf(`send to its monitor: {"execute": %q, "arguments": {%q: %q}}`, command, key, value)})
}
