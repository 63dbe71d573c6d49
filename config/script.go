package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lull-backup/lull/quiesce"
	"gopkg.in/yaml.v3"
)

// Bounds of a script.
const (
	DefaultScriptLimit = 5 * time.Second
	// MaxScriptLimit: both scripts of a pair run in the freeze window.
	MaxScriptLimit = quiesce.MaxWindow
)

// Script is the administrator's way to make an application hold still.
type Script struct {
	Name   string
	Host   bool     // the programs are this host's; else the guest's
	Freeze []string // absolute path and arguments
	Thaw   []string // empty: there is nothing to undo
	Limit  time.Duration
	Tier   quiesce.Tier
}

func (p *parser) script(taken func(name string) bool) func(name string, n *yaml.Node, line int) Script {
	return func(name string, n *yaml.Node, line int) Script {
		s := p.section(n, line, "script "+quote(name), "where", "freeze", "thaw", "limit", "tier")
		p.writerName(name, line, "script", "rename it")
		if taken(name) {
			p.problem(line, "script "+quote(name)+" has the name of a plugin", "rename one of them")
		}
		out := Script{Name: name, Host: s.where(), Tier: s.tier()}
		s.need("freeze", "add freeze: [/usr/local/sbin/NAME-freeze]")
		out.Freeze, out.Thaw = s.command("freeze"), s.command("thaw")
		out.Limit = s.duration("limit", time.Second, MaxScriptLimit, DefaultScriptLimit)
		return out
	}
}

// writerName checks what a writer can be named.
func (p *parser) writerName(name string, line int, kind, advice string) {
	if validName(name) && !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(name) {
		p.problem(line, kind+" name "+quote(name)+" is no name of a writer", "use a to z, 0 to 9 and dash")
	}
	if slices.Contains(BuiltinWriters(), name) {
		p.problem(line, kind+" "+quote(name)+" has the name of a writer that comes with lull", advice)
	}
}

// where says whether a script is this host's.
func (s section) where() bool {
	switch v, line := s.text("where"); v {
	case "host":
		return true
	case "", "guest":
	default:
		s.p.problem(line, fmt.Sprintf("%s is %s", s.of("where"), quote(v)), "write guest or host")
	}
	return false
}

func (s section) tier() quiesce.Tier {
	switch v, line := s.text("tier"); v {
	case "front-end":
		return quiesce.FrontEnd
	case "", "back-end":
	default:
		s.p.problem(line, fmt.Sprintf("%s is %s, no tier of an application", s.of("tier"), quote(v)), "write front-end or back-end")
	}
	return quiesce.BackEnd
}

// command reads a program and its arguments; no shell reads them.
func (s section) command(key string) []string {
	const example = "write a list, such as [/usr/local/sbin/app-freeze, --all]"
	if _, ok := s.get(key); !ok {
		return nil
	}
	words := s.texts(key, example)
	if len(words) > 0 && !strings.HasPrefix(words[0], "/") {
		s.p.problem(s.line(key), s.of(key)+" begins with no absolute path", example)
		return nil
	}
	return words
}

// Script finds a script by name.
func (c *Config) Script(name string) (Script, bool) {
	i := slices.IndexFunc(c.Scripts, func(s Script) bool { return s.Name == name })
	if i < 0 {
		return Script{}, false
	}
	return c.Scripts[i], true
}
