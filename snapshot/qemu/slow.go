package qemu

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/lull-backup/lull/snapshot"
)

// A guest that writes faster than its delta is merged keeps the merge from coming to its
// end. Where the plan says so (Plan.Slowdown), the device's write rate is limited by
// block_set_io_throttle: the guest's requests pass that limit, those of the merge do
// not. The limits that were there before are in the plan, so that whoever merges, after
// a kill -9 too, sets them again: limits that are those of a slowdown of the plan are
// lull's, any others are somebody else's and stay.

// limitNames are the limits of block_set_io_throttle, as query-block names them too.
func limitNames() []string {
	return []string{
		"bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr",
		"bps_max", "bps_rd_max", "bps_wr_max", "iops_max", "iops_rd_max", "iops_wr_max",
		"bps_max_length", "bps_rd_max_length", "bps_wr_max_length",
		"iops_max_length", "iops_rd_max_length", "iops_wr_max_length", "iops_size",
	}
}

// plainLimits are those that QEMU always names, and must be given.
func plainLimits() []string { return limitNames()[:6] }

// slows tells whether there is a guest that could be slowed down.
func (m *monitor) slows() bool { return len(m.vm.Nodes) == 0 }

// limits reads what QEMU lets the drives do, by device.
func (m *monitor) limits(ctx context.Context) (map[string]snapshot.Limits, error) {
	if !m.slows() {
		return nil, nil
	}
	var list []struct {
		QDev     string         `json:"qdev"`
		Inserted map[string]any `json:"inserted"`
	}
	if err := m.Execute(ctx, "query-block", nil, &list); err != nil {
		return nil, err
	}
	all := map[string]snapshot.Limits{}
	for _, b := range list {
		all[b.QDev] = readLimits(b.Inserted)
	}
	return all, nil
}

func readLimits(inserted map[string]any) (l snapshot.Limits) {
	for _, name := range limitNames() {
		v, _ := inserted[name].(float64)
		burst, isLength := strings.CutSuffix(name, "_length")
		if v <= 0 || isLength && (l.Values[burst] == 0 || v == 1) {
			continue // a length says something of a burst only, and is 1 by itself
		}
		if l.Values == nil {
			l.Values = map[string]int64{}
		}
		l.Values[name] = int64(v)
	}
	if len(l.Values) > 0 {
		l.Group, _ = inserted["group"].(string)
	}
	return l
}

func sameLimits(a, b snapshot.Limits) bool { return maps.Equal(a.Values, b.Values) }

// setLimits makes QEMU keep to limits; a manager does that itself, and notes it.
func (m *monitor) setLimits(ctx context.Context, d snapshot.DiskPlan, l snapshot.Limits) error {
	if m.vm.Manager != nil {
		return m.vm.Manager.Limit(ctx, d.Name, l)
	}
	a := args{"id": d.Device}
	for _, name := range plainLimits() {
		a[name] = int64(0)
	}
	for name, v := range l.Values {
		a[name] = v
	}
	if l.Group != "" && len(l.Values) > 0 {
		a["group"] = l.Group
	}
	return m.Execute(ctx, "block_set_io_throttle", a, nil)
}

// slowed is what a disk may do at the step of a slowdown. Limits that the disk has
// already get only lower.
func slowed(was snapshot.Limits, s snapshot.Slowdown, step int) snapshot.Limits {
	l := snapshot.Limits{Group: was.Group, Values: maps.Clone(was.Values)}
	if l.Values == nil {
		l.Values = map[string]int64{}
	}
	rate := max(s.Rate>>min(step, 62), snapshot.MinRate)
	name := "bps_wr"
	if was.Values["bps"] > 0 { // QEMU does not take both
		name = "bps"
	}
	if now := l.Values[name]; now > 0 {
		rate = min(rate, now)
	}
	l.Values[name] = rate
	delete(l.Values, name+"_max")
	delete(l.Values, name+"_max_length")
	return l
}

// lastStep is the step of a slowdown after which it gets no slower.
func lastStep(s snapshot.Slowdown) int {
	step := 0
	for rate := s.Rate; rate > snapshot.MinRate; rate /= 2 {
		step++
	}
	return step
}

// slower watches the merge of one disk, and slows its guest down where the plan allows
// it and nothing else helps.
type slower struct {
	plan  snapshot.Slowdown
	disk  snapshot.DiskPlan
	since time.Time // when left was left
	left  int64     // bytes; negative: nothing is known yet
	step  int       // of the slowdown; 0: none
}

func newSlower(p snapshot.Plan, d snapshot.DiskPlan) *slower {
	return &slower{plan: p.Slowdown, disk: d, left: -1}
}

// look is told what is left to merge, and returns what it did.
func (s *slower) look(ctx context.Context, m *monitor, left int64, at time.Time) (string, error) {
	if s.plan.After <= 0 || s.plan.Rate <= 0 || s.disk.Device == "" || !m.slows() {
		return "", nil
	}
	if s.left < 0 {
		s.since, s.left = at, left
		return "", nil
	}
	if at.Sub(s.since) < s.plan.After {
		return "", nil
	}
	helped := left < s.left-s.left/10
	s.since, s.left = at, left
	if helped || s.step > lastStep(s.plan) {
		return "", nil
	}
	now, err := m.limits(ctx)
	if err != nil {
		return "", err
	}
	if has := now[s.disk.Device]; !sameLimits(has, s.disk.Limits) && !ourLimits(has, s.disk.Limits, s.plan) {
		s.plan.After = 0 // somebody has set others since
		return "", nil
	}
	l := slowed(s.disk.Limits, s.plan, s.step)
	if err := m.setLimits(ctx, s.disk, l); err != nil {
		if refused(err) { // the merge goes on as it does
			s.plan.After = 0
			return "", nil
		}
		return "", fmt.Errorf("slow guest down: %w", err)
	}
	s.step++
	rate := max(l.Values["bps_wr"], l.Values["bps"])
	return fmt.Sprintf("the guest writes to disk %s faster than its delta is merged, and is held to %s a second until it is",
		s.disk.Name, humanize.IBytes(uint64(rate))), nil
}

// unslow sets the limits of the plan's disks again that a merge has lowered, this one or
// one of a process that died.
func (m *monitor) unslow(ctx context.Context, p snapshot.Plan) error {
	if p.Slowdown.After <= 0 || !m.slows() || m.proc.instance != p.Instance {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeTimeout) // the guest is not to wait for who merges next
	defer cancel()
	now, err := m.limits(ctx)
	if err != nil {
		return err
	}
	for _, d := range p.Disks {
		if !ourLimits(now[d.Device], d.Limits, p.Slowdown) {
			continue
		}
		if err := m.setLimits(ctx, d, d.Limits); err != nil {
			return fmt.Errorf("give the guest its speed back: disk %s: %w", d.Name, err)
		}
	}
	return nil
}

// ourLimits tells whether limits are those of a slowdown, and not the plan's.
func ourLimits(now, was snapshot.Limits, s snapshot.Slowdown) bool {
	if sameLimits(now, was) {
		return false
	}
	for step := range lastStep(s) + 1 {
		if sameLimits(now, slowed(was, s, step)) {
			return true
		}
	}
	return false
}
