package config

import (
	"fmt"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"
)

// parser gathers what is wrong while it turns nodes into values. It goes on
// after every problem: what it returns counts only when there is none.
type parser struct {
	file     string
	problems []Problem
	warnings []Problem
	named    []named
	sockets  map[string]string // path of a socket or image -> host/name that has it

	autoLocks []autoLock
	deltaDirs []deltaDir
}

func (p *parser) problem(line int, what, instead string) {
	p.problems = append(p.problems, Problem{File: p.file, Line: line, What: what, Instead: instead})
}

func (p *parser) warn(line int, what, instead string) {
	p.warnings = append(p.warnings, Problem{File: p.file, Line: line, What: what, Instead: instead})
}

func (p *parser) errors() Errors {
	sortProblems(p.problems)
	return Errors(p.problems)
}

func (p *parser) sortedWarnings() []Problem {
	sortProblems(p.warnings)
	return p.warnings
}

func (p *parser) parse(data []byte) *Config {
	c := &Config{Path: p.file, Agent: defaultAgent(), Checkpoints: defaultCheckpoints()}
	p.sockets = make(map[string]string)
	root, ok := p.document(data)
	if !ok {
		return c
	}
	p.plain(root)
	top := p.section(root, root.Line, "the file", "repositories", "hosts", "groups", "plugins", "scripts", "databases", "checkpoints", "agent")
	if !top.ok {
		return c
	}
	if n, ok := top.get("agent"); ok {
		c.Agent = p.agent(n, top.line("agent"))
	}
	if n, ok := top.need("repositories", "name at least one, such as main: {dir: /srv/backup, passphrase_file: /etc/lull/passphrase}"); ok {
		c.Repositories = entries(p, n, top.line("repositories"), "repository", p.repository)
	}
	if n, ok := top.get("hosts"); ok {
		c.Hosts = entries(p, n, top.line("hosts"), "host", p.host)
	}
	slices.SortFunc(c.Repositories, func(a, b Repository) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(c.Hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	if n, ok := top.get("plugins"); ok {
		c.Plugins = entries(p, n, top.line("plugins"), "plugin", p.plugin(c.Agent.PluginDir))
	}
	slices.SortFunc(c.Plugins, func(a, b Plugin) int { return strings.Compare(a.Name, b.Name) })
	if n, ok := top.get("scripts"); ok {
		isPlugin := func(name string) bool { _, ok := c.Plugin(name); return ok }
		c.Scripts = entries(p, n, top.line("scripts"), "script", p.script(isPlugin))
	}
	slices.SortFunc(c.Scripts, func(a, b Script) int { return strings.Compare(a.Name, b.Name) })
	if n, ok := top.get("databases"); ok {
		c.Databases = p.databases(n, top.line("databases"))
	}
	if n, ok := top.get("checkpoints"); ok {
		c.Checkpoints = p.checkpoints(n, top.line("checkpoints"))
	}
	if n, ok := top.get("groups"); ok {
		g := &groups{parser: p, config: c, owner: make(map[string]Group)}
		c.Groups = entries(p, n, top.line("groups"), "group", g.group)
	}
	slices.SortFunc(c.Groups, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	p.resolveLocks(c)
	p.apart(c)
	return c
}

// entries reads a mapping of names to things of one kind. A thing that is
// damaged is returned all the same, so that references to it still resolve.
func entries[T any](p *parser, n *yaml.Node, line int, kind string, read func(name string, n *yaml.Node, line int) T) []T {
	s := p.names(n, line, kind)
	var out []T
	for _, e := range s.entries {
		p.name(e.key, kind+" name")
		out = append(out, read(e.key.Value, e.value, e.key.Line))
	}
	return out
}

// name checks a name of the administrator's choice.
func (p *parser) name(n *yaml.Node, what string) {
	switch {
	case len(n.Value) > MaxName:
		p.problem(n.Line, fmt.Sprintf("%s %s is longer than %d bytes", what, quote(n.Value), MaxName), "shorten it")
	case !validName(n.Value):
		p.problem(n.Line, fmt.Sprintf("%s %s is not allowed", what, quote(n.Value)), nameAdvice(n.Value))
	}
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || !strings.ContainsRune("._-", rune(c))) {
			return false
		}
	}
	return s != ""
}

func nameAdvice(s string) string {
	if low := strings.ToLower(strings.ReplaceAll(s, " ", "-")); validName(low) {
		return "write " + low
	}
	return "use a to z, 0 to 9, dot, underscore and dash, and begin with a letter or digit"
}

// quote shows text of the file, cut short where it is long.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return fmt.Sprintf("%q", s)
}
