package config

import (
	"errors"
	"time"

	"github.com/lull-backup/lull/agent/schedule"
)

const (
	// DefaultMaintenance is when a repository is pruned unless it says otherwise.
	DefaultMaintenance = "45 4 * * *"
	// DefaultGrace is how long what is to be deleted is marked before.
	DefaultGrace = 24 * time.Hour

	minGrace = 3 * time.Hour // sessions renew themselves every hour
	maxGrace = 90 * 24 * time.Hour
)

// maintenance reads when a repository is pruned.
func (p *parser) maintenance(repository section) Maintenance {
	out := Maintenance{Grace: DefaultGrace}
	text, line := DefaultMaintenance, 0
	if n, given := repository.get("maintenance"); given {
		s := p.section(n, repository.line("maintenance"), repository.of("maintenance"), "schedule", "grace")
		out.Grace = s.duration("grace", minGrace, maxGrace, DefaultGrace)
		if _, has := s.get("schedule"); has {
			text, line = s.text("schedule")
		}
	}
	if text == "" || text == manual {
		return out
	}
	v, err := schedule.Parse(text, time.Local)
	if bad := (*schedule.Error)(nil); errors.As(err, &bad) {
		p.problem(line, "schedule of "+repository.of("maintenance")+": "+bad.What, bad.Instead)
	}
	out.Schedule = v
	return out
}
