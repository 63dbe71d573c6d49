package config

import (
	"fmt"

	"gopkg.in/yaml.v3"
)

func defaultAgent() Agent {
	return Agent{StateDir: DefaultStateDir, CacheDir: DefaultCacheDir, PluginDir: DefaultPluginDir, Socket: DefaultSocket, Parallel: DefaultParallel}
}

func (p *parser) agent(n *yaml.Node, line int) Agent {
	s := p.section(n, line, "agent", "state_dir", "cache_dir", "plugin_dir", "socket", "parallel", "jitter")
	a := defaultAgent()
	set(&a.StateDir, s.path("state_dir", DefaultStateDir))
	set(&a.CacheDir, s.path("cache_dir", DefaultCacheDir))
	set(&a.PluginDir, s.path("plugin_dir", DefaultPluginDir))
	set(&a.Socket, s.path("socket", DefaultSocket))
	s.fitsSocket("socket", a.Socket)
	a.Parallel = s.integer("parallel", 1, MaxParallel, DefaultParallel)
	a.Jitter = s.duration("jitter", 0, MaxJitter, 0)
	return a
}

// maxSocket is what fits into sun_path with its final zero byte.
const maxSocket = 107

func (s section) fitsSocket(key, path string) {
	if len(path) > maxSocket {
		s.p.problem(s.line(key), fmt.Sprintf("%s is longer than %d bytes, the most that Linux takes for a socket", s.of(key), maxSocket), "use a shorter path")
	}
}

// set overwrites a default with what was given.
func set(to *string, v string) {
	if v != "" {
		*to = v
	}
}
