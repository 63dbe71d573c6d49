package main

import (
	"slices"

	"github.com/spf13/cobra"
)

func (in *invocation) pluginListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the writers of the configuration",
		Args:  argCount(0, 0, ""),
		RunE:  in.run(func(*cobra.Command, []string) error { return in.listPlugins() }),
	}
}

// listedWriter is a writer as --json shows it.
type listedWriter struct {
	Name   string   `json:"name"`
	Path   string   `json:"path,omitempty"` // empty: it comes with lull
	SHA256 string   `json:"sha256,omitempty"`
	Grants []string `json:"grants"`
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups"`
}

func (in *invocation) listPlugins() error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	var all []listedWriter
	for _, name := range cfg.Writers() {
		spec, err := in.writerSpec(cfg, name)
		if err != nil {
			return err
		}
		w := listedWriter{Name: name, SHA256: spec.SHA256, User: spec.User, Grants: []string{}, Groups: []string{}}
		if spec.Guarded {
			w.Path = spec.Path
		}
		for _, g := range spec.Grants {
			w.Grants = append(w.Grants, string(g))
		}
		for _, g := range cfg.Groups {
			if slices.Contains(g.Writers, name) {
				w.Groups = append(w.Groups, g.Name)
			}
		}
		all = append(all, w)
	}
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]any{"writers": all})
	}
	tab := newTable("WRITER", "PROGRAM", "USER", "GRANTS", "GROUPS")
	for _, w := range all {
		program := w.Path
		if _, ok := cfg.Script(w.Name); ok {
			program = "(script)"
		} else if program == "" {
			program = "(lull)"
		}
		tab.add(w.Name, program, w.User, join(w.Grants), join(w.Groups))
	}
	return tab.write(in.Stdout)
}
