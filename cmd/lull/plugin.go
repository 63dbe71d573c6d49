package main

import (
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/plugintest"
	"github.com/lull-backup/lull/quiesce"
)

func (in *invocation) pluginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "plugin",
		Short: "Look at writer plugins, try them, begin one",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		in.pluginListCommand(), in.pluginDescribeCommand(), in.pluginVerifyCommand(),
		in.pluginDebugCommand(), in.pluginDoctorCommand(), in.pluginInitCommand(),
	)
	return cmd
}

// subjectFlags say how a plugin is started that is named on the command line.
type subjectFlags struct {
	grants []string
	env    []string
	user   string
	here   bool
}

func (f *subjectFlags) add(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().StringSliceVar(&f.grants, "grants", config.Grants(), "what the plugin may do in the guest")
	cmd.Flags().StringArrayVar(&f.env, "env", nil, "a variable for the plugin, as `KEY=VALUE`; may be repeated")
	cmd.Flags().StringVar(&f.user, "user", "", "run the plugin as this `USER`")
	cmd.Flags().BoolVar(&f.here, "here", false, "let the guest be this machine: what the plugin does in the guest, it does here")
	return cmd
}

// guest is the guest that stands for a real one.
func (f *subjectFlags) guest() plugintest.Guest {
	if f.here {
		return plugintest.Here()
	}
	return plugintest.FakeGuest()
}

// subject is the plugin that an argument means: a program by its path, with the
// arguments after it, or a name of the configuration.
func (in *invocation) subject(args []string, f subjectFlags) (plugins.Spec, error) {
	if !strings.Contains(args[0], "/") {
		return in.namedSubject(args)
	}
	path, err := filepath.Abs(args[0])
	if err != nil {
		return plugins.Spec{}, err
	}
	spec := plugins.Spec{Name: "plugin", Path: path, Args: args[1:], Env: f.env, User: f.user}
	for _, g := range f.grants {
		spec.Grants = append(spec.Grants, plugins.Grant(g))
	}
	return spec, nil
}

func (in *invocation) namedSubject(args []string) (plugins.Spec, error) {
	cfg, err := in.loadConfig()
	if err != nil {
		return plugins.Spec{}, orElse(err, "./"+args[0]+" for a program in this folder")
	}
	if len(args) > 1 {
		return plugins.Spec{}, usagef("plugin %s: its arguments are those of the configuration", args[0])
	}
	spec, err := in.writerSpec(cfg, args[0])
	if err != nil {
		return spec, withHint(err, "name one of `lull plugin list`, or a program by its path, such as ./%s", args[0])
	}
	return spec, nil
}

func tierName(t quiesce.Tier) string {
	switch t {
	case quiesce.FrontEnd:
		return "front-end"
	case quiesce.BackEnd:
		return "back-end"
	}
	return "system"
}
