package config

import (
	"fmt"
	"strconv"

	"gopkg.in/yaml.v3"

	"github.com/lull-backup/lull/agent/retention"
)

// Modes of ObjectLock.
const (
	Governance = "governance"
	Compliance = "compliance"
)

// MaxLock is the longest lock, in days.
const MaxLock = 36500

// ObjectLock is how the store is to keep objects from being deleted.
type ObjectLock struct {
	Mode string // Governance or Compliance
	// Days from the creation of a restore point. With "auto" the shortest rule that speaks
	// of time, the longest such of all groups.
	Days int
	// Follow: days are auto, and what the rules keep for longer stays locked by renewals.
	Follow bool
	// Longest is the longest lock that the rules lead to, in days: Days, where they are not
	// followed.
	Longest int
}

// lockAuto marks days: auto until the groups are known.
const lockAuto = -1

func (p *parser) objectLock(n *yaml.Node, line int, what string) *ObjectLock {
	s := p.section(n, line, what, "mode", "days")
	if !s.ok {
		return nil
	}
	l := &ObjectLock{Days: lockAuto}
	s.need("mode", "add mode: governance, or mode: compliance, which nobody can undo")
	if mode, at := s.text("mode"); mode == Governance || mode == Compliance {
		l.Mode = mode
	} else if mode != "" {
		p.problem(at, fmt.Sprintf("%s is %s", s.of("mode"), quote(mode)), "write governance or compliance")
	}
	if n, ok := s.get("days"); ok && n.Value != "auto" && !reported(n) {
		l.Days = s.integer("days", 1, MaxLock, lockAuto)
	}
	l.Follow, l.Longest = l.Days == lockAuto, l.Days
	if l.Follow {
		p.autoLocks = append(p.autoLocks, autoLock{l, what, max(line, s.line("days"))})
	}
	return l
}

// autoLock is a lock whose days follow the groups' rules.
type autoLock struct {
	lock *ObjectLock
	what string
	line int
}

// resolveLocks turns auto into days, now that all groups are known.
func (p *parser) resolveLocks(c *Config) {
	for _, a := range p.autoLocks {
		for _, r := range c.Repositories {
			if r.ObjectLock == a.lock {
				p.resolveLock(a, c, r.Name)
			}
		}
	}
}

func (p *parser) resolveLock(a autoLock, c *Config, repository string) {
	a.lock.Days, a.lock.Longest = 0, 0
	for _, g := range c.Groups {
		if g.Repository != repository {
			continue
		}
		shortest, longest := ruleDays(g.Keep)
		if longest == 0 {
			p.problem(a.line, fmt.Sprintf("days of %s is auto, and the keep of group %s has no rule that speaks of time", a.what, quote(g.Name)),
				"write a number of days, such as days: 30")
			return
		}
		a.lock.Days = min(MaxLock, max(a.lock.Days, shortest))
		a.lock.Longest = min(MaxLock, max(a.lock.Longest, longest))
	}
	if a.lock.Days == 0 {
		p.problem(a.line, fmt.Sprintf("days of %s is auto, and no group uses the repository", a.what), "write a number of days, such as days: "+strconv.Itoa(30))
	}
}

// LockAgainstKeep is what differs between the object_lock of a repository and the rules of
// the groups that keep points there, in words; empty: nothing does.
func (c *Config) LockAgainstKeep(repository string) string {
	r, ok := c.Repository(repository)
	if !ok || r.ObjectLock == nil || r.ObjectLock.Follow {
		return ""
	}
	longest := 0
	for _, g := range c.Groups {
		if g.Repository != repository {
			continue
		}
		_, days := ruleDays(g.Keep)
		switch {
		case g.Keep.IsZero():
			return fmt.Sprintf("group %s keeps everything, and object_lock locks for %d days: what is older can be deleted", g.Name, r.ObjectLock.Days)
		case days > r.ObjectLock.Days:
			return fmt.Sprintf("the rules of group %s keep restore points for up to %d days, and object_lock locks for %d: what is older can be deleted", g.Name, days, r.ObjectLock.Days)
		}
		longest = max(longest, days)
	}
	if longest > 0 && longest < r.ObjectLock.Days {
		return fmt.Sprintf("object_lock locks for %d days, and the rules keep restore points for up to %d: they go, and their space is free, only after their lock", r.ObjectLock.Days, longest)
	}
	return ""
}

// ruleDays is for how many days points are kept by the rules that speak of time, the
// shortest and the longest of them; 0: there is none.
func ruleDays(k retention.Keep) (shortest, longest int) {
	for _, days := range []int{k.Daily, 7 * k.Weekly, 31 * k.Monthly, 366 * k.Yearly} {
		if days > 0 && (shortest == 0 || days < shortest) {
			shortest = days
		}
		longest = max(longest, days)
	}
	return shortest, longest
}
