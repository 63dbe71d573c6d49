package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/lull-backup/lull/quiesce"
	"gopkg.in/yaml.v3"
)

// Plugin is a writer that does not come with lull.
type Plugin struct {
	Name string
	// Path of the program: Name in the agent's folder for plugins.
	Path   string
	SHA256 string   // of the program, 64 hexadecimal digits
	Grants []string // what it may do in the guest: of Grants
	Args   []string
	Env    []string // KEY=value, sorted
	User   string   // that it runs as; empty: as lull
}

// Grants are what a plugin can be granted.
func Grants() []string { return []string{"info", "exec", "read-file", "write-file", "freeze"} }

// FilesystemWriter freezes the guest's file systems.
const FilesystemWriter = "filesystem"

// Writers of databases, which are looked for in the guest.
const (
	PostgreSQLWriter = "postgresql"
	MariaDBWriter    = "mariadb"
)

// BuiltinWriters are the names of the writers that come with lull.
func BuiltinWriters() []string { return append([]string{FilesystemWriter}, DatabaseWriters()...) }

// DatabaseWriters are those of them that look for a database in the guest.
func DatabaseWriters() []string { return []string{PostgreSQLWriter, MariaDBWriter} }

func (p *parser) plugin(dir string) func(name string, n *yaml.Node, line int) Plugin {
	return func(name string, n *yaml.Node, line int) Plugin {
		s := p.section(n, line, "plugin "+quote(name), "sha256", "grants", "args", "env", "user")
		p.writerName(name, line, "plugin", "rename it, and its program")
		out := Plugin{Name: name, Path: filepath.Join(dir, name), SHA256: s.sha256(), Grants: s.grants(), Env: s.environment()}
		if _, ok := s.get("args"); ok {
			out.Args = s.texts("args", "list the arguments, such as [--socket, /run/redis.sock]")
		}
		out.User, _ = s.text("user")
		return out
	}
}

func (s section) sha256() string {
	s.need("sha256", "add the first word that sha256sum says of the program")
	sum, line := s.text("sha256")
	if sum != "" && !regexp.MustCompile(`^[0-9a-fA-F]{64}$`).MatchString(sum) {
		s.p.problem(line, s.of("sha256")+" is no SHA-256", "write the 64 hexadecimal digits that sha256sum says, in quotes")
	}
	return strings.ToLower(sum)
}

func (s section) grants() []string {
	if _, ok := s.get("grants"); !ok {
		return nil
	}
	advice := "list some of: " + strings.Join(Grants(), ", ")
	grants := s.texts("grants", advice)
	for _, g := range grants {
		if !slices.Contains(Grants(), g) {
			s.p.problem(s.line("grants"), fmt.Sprintf("%s has %s, which is no grant", s.of("grants"), quote(g)), advice)
		}
	}
	return grants
}

// environment reads variables. Secrets belong into files that the plugin reads.
func (s section) environment() []string {
	n, ok := s.get("env")
	if !ok {
		return nil
	}
	var out []string
	for _, e := range s.p.mapping(n, s.line("env"), s.of("env")).entries {
		key := e.key.Value
		v, ok := s.p.text(e.value, key+" in "+s.of("env"))
		switch {
		case !regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`).MatchString(key):
			s.p.problem(e.key.Line, fmt.Sprintf("%s in %s is no name of a variable", quote(key), s.of("env")), "use letters, digits and underscore")
		case strings.HasPrefix(key, "PLUGIN_") || strings.HasPrefix(key, "LD_") || strings.HasPrefix(key, "LULL_PLUGIN"):
			s.p.problem(e.key.Line, fmt.Sprintf("%s in %s is set by lull, or by nobody", quote(key), s.of("env")), "remove it")
		case ok:
			out = append(out, key+"="+v)
		}
	}
	if len(out) > maxTexts {
		s.p.problem(s.line("env"), fmt.Sprintf("%s has %d variables, at most %d are allowed", s.of("env"), len(out), maxTexts), "shorten it")
	}
	slices.Sort(out)
	return out
}

// writers reads which writers a group uses; by default all that there are.
func (p *groups) writers(s section) []string {
	known := p.config.Writers()
	if _, ok := s.get("writers"); !ok {
		return known
	}
	advice := "use some of: " + strings.Join(known, ", ")
	var out []string
	for _, n := range s.list("writers", advice) {
		name, ok := p.text(n, "a writer of "+s.what)
		if ok && !slices.Contains(known, name) {
			p.problem(n.Line, fmt.Sprintf("%s in %s is no writer of this file", quote(name), s.of("writers")), advice)
			continue
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// idle warns of scripts that a group names, and that its ladder has no use for.
func (p *groups) idle(s section, g Group) {
	if _, named := s.get("writers"); !named || slices.Contains(g.Policy.Ladder, quiesce.LevelApplication) {
		return
	}
	for _, name := range g.Writers {
		if _, ok := p.config.Script(name); ok {
			p.warn(s.line("writers"), fmt.Sprintf("%s names the script %s, which runs for the level application alone", s.of("writers"), quote(name)),
				"let the ladder of its consistency begin with application")
		}
	}
}

// Writers are the names of all writers, sorted: lull's own, the plugins and the scripts.
func (c *Config) Writers() []string {
	out := BuiltinWriters()
	for _, p := range c.Plugins {
		out = append(out, p.Name)
	}
	for _, s := range c.Scripts {
		out = append(out, s.Name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Plugin finds a plugin by name.
func (c *Config) Plugin(name string) (Plugin, bool) {
	i := slices.IndexFunc(c.Plugins, func(p Plugin) bool { return p.Name == name })
	if i < 0 {
		return Plugin{}, false
	}
	return c.Plugins[i], true
}
