package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/plugins"
)

func (in *invocation) pluginDoctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong with the plugins of the configuration",
		Long: "Look at each plugin of the configuration: is its program there, could others replace it,\n" +
			"is it the one whose SHA-256 the file names, does it start, does it answer to its name?\n" +
			"No guest is touched.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.pluginDoctor(cmd.Context()) }),
	}
}

func (in *invocation) pluginDoctor(ctx context.Context) error {
	cfg, err := in.loadConfig()
	if err != nil {
		return err
	}
	all := []diagnosis{}
	for _, name := range cfg.Writers() {
		all = append(all, in.diagnosePlugin(ctx, cfg, name)...)
		if ctx.Err() != nil {
			return fmt.Errorf("plugin doctor: %w", ctx.Err())
		}
	}
	return in.conclude("plugin doctor", all)
}

func (in *invocation) diagnosePlugin(ctx context.Context, cfg *config.Config, name string) []diagnosis {
	d := diagnosis{Subject: "writer " + name, Check: "program", Result: resultOK, Detail: "comes with lull"}
	spec, err := in.writerSpec(cfg, name)
	if spec.Guarded && err == nil {
		d.Detail = spec.Path + ", which only root can replace"
		err = plugins.CheckGuarded(spec.Path)
	}
	if err != nil {
		d.Result, d.Detail, d.Hint = resultFailed, plainError(err), hintOf(err)
		return []diagnosis{d}
	}
	start := diagnosis{Subject: d.Subject, Check: "start", Result: resultOK}
	switch id, err := in.identify(ctx, spec, subjectFlags{}); {
	case errors.Is(err, plugins.ErrUntrusted):
		start.Result, start.Detail = resultFailed, plainError(err)
		start.Hint = "find out who changed it; when that was you, write what `sha256sum` says into the configuration"
	case err != nil:
		start.Result, start.Detail, start.Hint = resultFailed, plainError(err), hintOf(err)
	default:
		start.Detail = fmt.Sprintf("%s %s, level %s", id.Name, id.Version, id.Level)
		if id.Name != name {
			start.Result, start.Hint = resultWarning, fmt.Sprintf("it calls itself %s; reports name it %s, as the configuration does", id.Name, name)
		}
	}
	return []diagnosis{d, start}
}
