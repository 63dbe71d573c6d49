package config

import (
	"fmt"
	"regexp"
	"strconv"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lull-backup/lull/snapshot"
)

// maxSlowdown bounds how long a merge goes on before its guest is slowed down.
const maxSlowdown = 24 * time.Hour

// merge reads whether guests may be slowed down so that their deltas can be merged.
func (p *parser) merge(n *yaml.Node, line int, what string) snapshot.Slowdown {
	s := p.section(n, line, what, "slow_after", "slow_to")
	d := snapshot.Slowdown{
		After: s.duration("slow_after", time.Second, maxSlowdown, 0),
		Rate:  s.rate("slow_to"),
	}
	if s.ok && d.After == 0 {
		s.need("slow_after", "write how long a merge may get nowhere first, such as 10m")
	}
	if s.ok && d.Rate == 0 {
		s.need("slow_to", "write how much a disk may be written to then, in bytes a second, such as 20MiB")
	}
	return d
}

// rate reads bytes a second.
func (s section) rate(key string) int64 {
	n, ok := s.get(key)
	if !ok || reported(n) {
		return 0
	}
	const advice = "write bytes a second with their unit, from 64KiB to 1024GiB, such as 20MiB"
	parts := regexp.MustCompile(`^([1-9][0-9]{0,3})([KMG])iB$`).FindStringSubmatch(n.Value)
	if n.Kind != yaml.ScalarNode || parts == nil {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s", s.of(key), describe(n)), advice)
		return 0
	}
	v, _ := strconv.ParseInt(parts[1], 10, 64) // four digits at most
	v <<= map[string]int{"K": 10, "M": 20, "G": 30}[parts[2]]
	if v < snapshot.MinRate || v > 1<<40 {
		s.p.problem(n.Line, fmt.Sprintf("%s is %s, out of range", s.of(key), clip(n.Value)), advice)
		return 0
	}
	return v
}
