package config

import (
	"fmt"
	"time"

	"gopkg.in/yaml.v3"
)

// Defaults and bounds of checkpoints. QEMU reads through every image of a chain, and a
// week is what most tests take.
const (
	DefaultCheckpointAge    = 7 * 24 * time.Hour
	DefaultCheckpointGrowth = 64 << 30 // bytes
	DefaultCheckpointDepth  = 32
	DefaultCheckpointStop   = time.Minute
	MaxCheckpointDepth      = 100
	maxCheckpointAge        = 10 * 366 * 24 * time.Hour
	maxCheckpointGrowth     = 1 << 20 // GiB
	maxCheckpointStop       = time.Hour
)

func defaultCheckpoints() Checkpoints {
	return Checkpoints{MaxAge: DefaultCheckpointAge, MaxGrowth: DefaultCheckpointGrowth, MaxDepth: DefaultCheckpointDepth, MaxStop: DefaultCheckpointStop}
}

func (p *parser) checkpoints(n *yaml.Node, line int) Checkpoints {
	s := p.section(n, line, "checkpoints", "max_age", "max_growth_gib", "max_depth", "max_stop")
	c := defaultCheckpoints()
	c.MaxAge = s.duration("max_age", time.Hour, maxCheckpointAge, c.MaxAge)
	c.MaxGrowth = int64(s.integer("max_growth_gib", 1, maxCheckpointGrowth, DefaultCheckpointGrowth>>30)) << 30
	c.MaxDepth = s.integer("max_depth", 1, MaxCheckpointDepth, c.MaxDepth)
	c.MaxStop = s.duration("max_stop", time.Second, maxCheckpointStop, c.MaxStop)
	if _, given := s.get("max_depth"); given && c.MaxDepth > 64 {
		p.warn(s.line("max_depth"), fmt.Sprintf("%s is %d: QEMU gets slow with so many images upon each other", s.of("max_depth"), c.MaxDepth), "stay below 64")
	}
	return c
}
