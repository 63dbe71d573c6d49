package config

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/agent/retention"
	"github.com/lull-backup/lull/agent/schedule"
	"github.com/lull-backup/lull/quiesce"
	"gopkg.in/yaml.v3"
)

// maxAudit bounds how long disks go without an audit, where there are any.
const maxAudit = 366 * 24 * time.Hour

// manual is the schedule of a group that runs only when asked to.
const manual = "manual"

// groups reads the groups, once repositories and hosts are known.
type groups struct {
	*parser
	config *Config
	// owner is the group that first took a VM into a repository; the key is
	// repository, space, host/name.
	owner map[string]Group
}

func (p *groups) group(name string, n *yaml.Node, line int) Group {
	what := fmt.Sprintf("group %s", quote(name))
	s := p.section(n, line, what, "vms", "repository", "schedule", "consistency", "writers", "mount_points", "keep", "catch_up", "tracking", "merge", "wipe_deltas")
	g := Group{Name: name, Policy: defaultPolicy(), Tracking: Tracking{Enabled: true}}
	if !s.ok {
		return g
	}
	g.Patterns, g.VMs = p.patterns(s)
	g.Repository = p.reference(s)
	g.Schedule = s.schedule()
	if n, ok := s.get("consistency"); ok {
		g.Policy = p.policy(n, s.line("consistency"), s.of("consistency"))
	}
	g.Writers = p.writers(s)
	g.MountPoints = s.mountPoints()
	p.idle(s, g)
	if n, ok := s.get("keep"); ok {
		g.Keep = p.keep(n, s.line("keep"), s.of("keep"))
	}
	g.CatchUp = s.boolean("catch_up", true)
	if n, ok := s.get("tracking"); ok {
		g.Tracking = p.tracking(n, s.line("tracking"), s.of("tracking"))
	}
	if n, ok := s.get("merge"); ok {
		g.Slowdown = p.merge(n, s.line("merge"), s.of("merge"))
	}
	g.WipeDeltas = s.boolean("wipe_deltas", false)
	p.overlap(g, line)
	return g
}

func (p *groups) patterns(s section) (patterns, vms []string) {
	const advice = `write shell patterns over host/name, such as ["*"] or ["lab/*"]`
	for _, n := range s.list("vms", advice) {
		pattern, ok := p.text(n, "a pattern of "+s.what)
		if !ok {
			continue
		}
		if _, err := path.Match(pattern, ""); err != nil || strings.Count(pattern, "/") > 1 {
			p.problem(n.Line, fmt.Sprintf("%s in %s is no pattern", quote(pattern), s.what), advice)
			continue
		}
		found := p.config.Match(pattern)
		if len(found) == 0 && !p.config.Discovers() {
			p.warn(n.Line, fmt.Sprintf("pattern %s of %s matches no VM", quote(pattern), s.what), "see lull vms for the names")
		}
		patterns, vms = append(patterns, pattern), append(vms, found...)
	}
	slices.Sort(vms)
	return patterns, slices.Compact(vms)
}

// reference reads the name of a repository that the file has.
func (p *groups) reference(s section) string {
	var known []string
	for _, r := range p.config.Repositories {
		known = append(known, r.Name)
	}
	advice := "add one under repositories"
	if len(known) > 0 {
		advice = "use one of: " + strings.Join(known, ", ")
	}
	if _, ok := s.need("repository", advice); !ok {
		return ""
	}
	name, line := s.text("repository")
	if name == "" || slices.Contains(known, name) {
		return name
	}
	if near := nearest(name, known); near != "" {
		advice = "write " + near
	}
	p.problem(line, fmt.Sprintf("%s is %s, which is not in this file", s.of("repository"), quote(name)), advice)
	return ""
}

func (s section) schedule() schedule.Schedule {
	s.need("schedule", `add schedule: "30 1 * * *", or schedule: manual for a group that runs only when asked to`)
	text, line := s.text("schedule")
	if text == "" || text == manual {
		return schedule.Schedule{}
	}
	v, err := schedule.Parse(text, time.Local)
	if bad := (*schedule.Error)(nil); errors.As(err, &bad) {
		s.p.problem(line, s.of("schedule")+": "+bad.What, bad.Instead)
	}
	return v
}

// mountPoints reads which file systems are frozen. They are the guest's, where a path
// need not begin with a slash.
func (s section) mountPoints() []string {
	const advice = "list those to be frozen, such as [/, /srv], or remove it to freeze all"
	if _, ok := s.get("mount_points"); !ok {
		return nil
	}
	points := s.texts("mount_points", advice)
	for i, point := range points {
		if slices.Contains(points[:i], point) {
			s.p.problem(s.line("mount_points"), fmt.Sprintf("%s has %s twice", s.of("mount_points"), quote(point)), "remove one of them")
		}
	}
	return points
}

func defaultPolicy() quiesce.Policy {
	return quiesce.Policy{
		Ladder: []quiesce.Level{quiesce.LevelFilesystem, quiesce.LevelCrash},
		Floor:  quiesce.LevelCrash,
		Window: quiesce.DefaultWindow,
		Retry:  quiesce.DefaultRetry(),
	}
}

func (p *parser) policy(n *yaml.Node, line int, what string) quiesce.Policy {
	s := p.section(n, line, what, "ladder", "floor", "window", "retry")
	out := defaultPolicy()
	if !s.ok {
		return out
	}
	if _, given := s.get("ladder"); given {
		out.Ladder = s.ladder()
		if len(out.Ladder) == 0 {
			return out
		}
		out.Floor = out.Ladder[len(out.Ladder)-1]
	}
	if n, given := s.get("floor"); given {
		if floor, ok := s.level(n, s.of("floor")); ok && slices.Contains(out.Ladder, floor) {
			out.Floor = floor
		} else if ok {
			p.problem(n.Line, fmt.Sprintf("%s is %s, no rung of its ladder", s.of("floor"), floor), "use one of: "+levelNames(out.Ladder))
		}
	}
	out.Window = s.duration("window", time.Second, quiesce.MaxWindow, quiesce.DefaultWindow)
	if n, given := s.get("retry"); given {
		out.Retry = p.retry(n, s.line("retry"), s.of("retry"))
	}
	return out
}

// retry reads how often and how late a level is tried again.
func (p *parser) retry(n *yaml.Node, line int, what string) quiesce.Retry {
	s, usual := p.section(n, line, what, "attempts", "delay", "until"), quiesce.DefaultRetry()
	return quiesce.Retry{
		Attempts: s.integer("attempts", 1, quiesce.MaxAttempts, usual.Attempts),
		Delay:    s.duration("delay", time.Second, quiesce.MaxRetry, usual.Delay),
		Until:    s.duration("until", time.Second, quiesce.MaxRetry, usual.Until),
	}
}

func levelNames(ladder []quiesce.Level) string {
	names := make([]string, len(ladder))
	for i, l := range ladder {
		names[i] = l.String()
	}
	return strings.Join(names, ", ")
}

// ladder reads levels, from the highest to the lowest.
func (s section) ladder() []quiesce.Level {
	const advice = "write levels from highest to lowest, such as [filesystem, crash]"
	var out []quiesce.Level
	for _, n := range s.list("ladder", advice) {
		l, ok := s.level(n, "a level of "+s.what)
		if !ok {
			continue
		}
		if len(out) > 0 && l >= out[len(out)-1] {
			s.p.problem(n.Line, fmt.Sprintf("the ladder of %s does not fall: %s after %s", s.what, l, out[len(out)-1]), advice)
			continue
		}
		out = append(out, l)
	}
	return out
}

func (s section) level(n *yaml.Node, what string) (quiesce.Level, bool) {
	v, ok := s.p.text(n, what)
	if !ok {
		return quiesce.LevelNone, false
	}
	l, err := quiesce.ParseLevel(v)
	if err != nil {
		known := []string{"application", "filesystem", "saved-state", "crash"}
		advice := "use one of: " + strings.Join(known, ", ")
		if near := nearest(v, known); near != "" {
			advice = "write " + near
		}
		s.p.problem(n.Line, fmt.Sprintf("%s is %s, no consistency level", what, quote(v)), advice)
		return quiesce.LevelNone, false
	}
	return l, true
}

func (p *parser) keep(n *yaml.Node, line int, what string) retention.Keep {
	before := len(p.problems)
	s := p.section(n, line, what, "last", "daily", "weekly", "monthly", "yearly")
	k := retention.Keep{
		Last:    s.integer("last", 0, MaxKeep, 0),
		Daily:   s.integer("daily", 0, MaxKeep, 0),
		Weekly:  s.integer("weekly", 0, MaxKeep, 0),
		Monthly: s.integer("monthly", 0, MaxKeep, 0),
		Yearly:  s.integer("yearly", 0, MaxKeep, 0),
	}
	if s.ok && k.IsZero() && len(p.problems) == before {
		p.problem(line, what+" keeps nothing", "write such as {last: 3, daily: 14}, or remove keep to keep everything")
	}
	return k
}

func (p *parser) tracking(n *yaml.Node, line int, what string) Tracking {
	s := p.section(n, line, what, "enabled", "audit")
	t := Tracking{Enabled: s.boolean("enabled", true), Audit: s.duration("audit", time.Hour, maxAudit, 0)}
	if _, audited := s.get("audit"); audited && !t.Enabled {
		p.problem(s.line("audit"), s.of("audit")+" is of no use while enabled is false: every run reads all", "remove one of the two")
	}
	return t
}

// overlap refuses two groups that would judge the same restore points by
// different rules.
func (p *groups) overlap(g Group, line int) {
	if g.Repository == "" {
		return
	}
	for _, vm := range g.VMs {
		key := g.Repository + " " + vm
		first, taken := p.owner[key]
		if !taken {
			p.owner[key] = g
			continue
		}
		if first.Keep != g.Keep {
			p.problem(line, fmt.Sprintf("VM %s is in the groups %s and %s, which keep its points in repository %s by different rules", vm, first.Name, g.Name, g.Repository),
				"give both the same keep, or narrow the patterns of one")
			return
		}
	}
}
