package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/plugins"
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

func (in *invocation) pluginDescribeCommand() *cobra.Command {
	var f subjectFlags
	return f.add(&cobra.Command{
		Use:     "describe {PATH [ARG...] | NAME}",
		Short:   "Say what a plugin says of itself, and its SHA-256",
		Example: "  lull plugin describe ./redis\n  lull plugin describe redis",
		Args:    argCount(1, -1, "the plugin"),
		RunE: in.run(func(cmd *cobra.Command, args []string) error {
			return in.describePlugin(cmd.Context(), args, f)
		}),
	})
}

// described is a plugin as --json shows it.
type described struct {
	Path     string           `json:"path"`
	SHA256   string           `json:"sha256"`
	Protocol int              `json:"protocol"`
	Tier     string           `json:"tier"`
	Identity quiesce.Identity `json:"identity"`
}

func (in *invocation) describePlugin(ctx context.Context, args []string, f subjectFlags) error {
	spec, err := in.subject(args, f)
	if err != nil {
		return err
	}
	d := described{Path: spec.Path, Protocol: proto.Version}
	if d.SHA256, err = fileSum(spec.Path); err != nil {
		return fmt.Errorf("describe plugin: %w", plainPath(err))
	}
	if d.Identity, err = in.identify(ctx, spec, f); err != nil {
		return fmt.Errorf("describe plugin: %w", err)
	}
	d.Tier = tierName(d.Identity.Tier)
	if in.flags.json {
		return writeJSON(in.Stdout, d)
	}
	budget := "that of the window"
	if d.Identity.Budget > 0 {
		budget = d.Identity.Budget.String()
	}
	for _, row := range [][2]string{
		{"name", d.Identity.Name}, {"version", d.Identity.Version}, {"level", d.Identity.Level.String()}, {"tier", d.Tier},
		{"components", join(d.Identity.Components)}, {"budget", budget},
		{"protocol", fmt.Sprint(d.Protocol)}, {"program", d.Path}, {"sha256", d.SHA256},
	} {
		if _, err := fmt.Fprintf(in.Stdout, "%-11s %s\n", row[0], printable(row[1])); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return nil
}

// identify starts a plugin and asks it who it is.
func (in *invocation) identify(ctx context.Context, spec plugins.Spec, f subjectFlags) (id quiesce.Identity, err error) {
	p, err := plugins.Start(ctx, spec, f.guest(), in.logger(slog.LevelWarn))
	if err != nil {
		return id, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, identifyLimit)
	defer cancel()
	return p.Identify(ctx)
}

func fileSum(path string) (_ string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
