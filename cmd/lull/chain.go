package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/snapshot"
)

// chainFlags say which chain of images is meant, and what may be done to it.
type chainFlags struct {
	format    string
	parents   []string
	discard   bool
	unchanged bool
}

func (in *invocation) chainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chain",
		Short: "Look at chains of disk images, and merge what a hypervisor left",
		Args:  subcommandOnly,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(in.chainShowCommand(), in.chainVerifyCommand(), in.chainMergeCommand())
	return cmd
}

// chainFile makes a command that works on one chain.
func (in *invocation) chainFile(cmd *cobra.Command, flags *chainFlags, do func(ctx context.Context, path string, format snapshot.Format) error) *cobra.Command {
	cmd.Args = argCount(1, 1, "the image")
	cmd.RunE = in.run(func(cmd *cobra.Command, args []string) error {
		format, err := readFormat(flags.format)
		if err != nil {
			return err
		}
		if format == "" {
			format = formatByName(args[0])
		}
		return do(cmd.Context(), args[0], format)
	})
	f := cmd.Flags()
	f.StringVar(&flags.format, "format", "", "`FORMAT` of the image: raw, qcow2, vhd, vhdx or vmdk (default: by the ending of the name)")
	f.StringArrayVar(&flags.parents, "parent", nil, "`PATH` of an image that it was made on, if not in its folder; may be repeated")
	return cmd
}

func (in *invocation) chainShowCommand() *cobra.Command {
	var flags chainFlags
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "Show the images that a disk image was made on",
		Long:  "Show an image and those that it was made on, top first, and whether they fit upon each other.",
	}
	return in.chainFile(cmd, &flags, func(_ context.Context, path string, format snapshot.Format) error {
		return in.chainShow(path, format, flags)
	})
}

func (in *invocation) chainVerifyCommand() *cobra.Command {
	var flags chainFlags
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "See that a chain of disk images is whole",
		Long: "Go through the tables of an image and of those that it was made on: checksums, bounds,\n" +
			"blocks that share a place, and whether the images fit upon each other. No data is read.",
	}
	return in.chainFile(cmd, &flags, func(ctx context.Context, path string, format snapshot.Format) error {
		return in.chainVerify(ctx, path, format, flags)
	})
}

func (in *invocation) chainMergeCommand() *cobra.Command {
	var flags chainFlags
	cmd := &cobra.Command{
		Use:   "merge FILE",
		Short: "Merge an AVHD or AVHDX into the image that it was made on",
		Long: "Write all that a differencing VHD or VHDX holds into the image that it was made on, as\n" +
			"Hyper-V does when a checkpoint is deleted. The file itself is never changed. After a crash\n" +
			"at any moment the same command goes on where it was.",
		Example: "  lull chain merge web_1C3A.avhdx --discard",
	}
	cmd = in.chainFile(cmd, &flags, func(ctx context.Context, path string, format snapshot.Format) error {
		return in.chainMerge(ctx, path, format, flags)
	})
	f := cmd.Flags()
	f.BoolVar(&flags.discard, "discard", false, "remove the file once all that it holds is in the other, durably")
	f.BoolVar(&flags.unchanged, "parent-unchanged", false, "of VHD: the parent was copied, but not written to, whatever its time says")
	return cmd
}

// chainLayer is one image of a chain as --json shows it.
type chainLayer struct {
	Path        string          `json:"path"`
	Format      snapshot.Format `json:"format"`
	Kind        string          `json:"kind,omitempty"`
	Size        int64           `json:"size"`
	ID          string          `json:"id,omitempty"`
	ParentID    string          `json:"parent_id,omitempty"`
	ParentPaths []string        `json:"parent_paths,omitempty"`
	Dirty       bool            `json:"dirty,omitempty"`
	Merging     string          `json:"merging,omitempty"` // the image whose merge into this one was not finished
}

func (l chainLayer) state() string {
	switch {
	case l.Merging != "":
		return "the merge of " + l.Merging + " was not finished"
	case l.Dirty:
		return "not closed well"
	}
	return ""
}

// chainResult is a chain as --json shows it.
type chainResult struct {
	Chain    []chainLayer `json:"chain"`
	Warnings []string     `json:"warnings,omitempty"`
}

// chainShow shows what can be followed, and then why not more.
func (in *invocation) chainShow(path string, format snapshot.Format, flags chainFlags) error {
	if err := present(path); err != nil {
		return err
	}
	res, err := chainOf(path, format, flags.parents)
	if err != nil {
		err = fmt.Errorf("chain: %w", err)
	}
	in.chainWarnings(res.Warnings)
	if len(res.Chain) == 0 {
		return err
	}
	if in.flags.json {
		return errors.Join(err, writeJSON(in.Stdout, res))
	}
	t := newTable("IMAGE", "FORMAT", "KIND", "SIZE", "ID", "STATE")
	for _, l := range res.Chain {
		t.add(l.Path, string(l.Format), l.Kind, size(l.Size), l.ID, l.state())
	}
	return errors.Join(err, t.write(in.Stdout))
}

func (in *invocation) chainVerify(ctx context.Context, path string, format snapshot.Format, flags chainFlags) error {
	if err := present(path); err != nil {
		return err
	}
	res, err := verifyChain(ctx, path, format, flags.parents)
	in.chainWarnings(res.Warnings)
	switch {
	case err != nil:
		return fmt.Errorf("chain: %w", err)
	case in.flags.json:
		return writeJSON(in.Stdout, res)
	case in.flags.quiet:
		return nil
	}
	_, err = fmt.Fprintf(in.Stdout, "whole: %s\n", count(len(res.Chain), "image"))
	return err
}

func (in *invocation) chainWarnings(list []string) {
	for _, w := range list {
		in.code = worse(in.code, exitWarnings)
		in.warn("%s", w)
	}
}

// mergeResult is a merge as --json shows it.
type mergeResult struct {
	Image     string `json:"image"`
	Parent    string `json:"parent"`
	Written   int64  `json:"written"`
	Resumed   bool   `json:"resumed,omitempty"`
	Discarded bool   `json:"discarded,omitempty"`
}

func (in *invocation) chainMerge(ctx context.Context, path string, format snapshot.Format, flags chainFlags) error {
	story := in.newStory("merge")
	defer story.close()
	res, err := mergeChain(ctx, path, format, flags, story.writing())
	story.close()
	switch {
	case err != nil && !exists(path):
		return present(path)
	case err != nil:
		return fmt.Errorf("chain: %w", err)
	case in.flags.json:
		return writeJSON(in.Stdout, map[string]any{"merged": res})
	case in.flags.quiet:
		return nil
	}
	what := "it holds nothing any more that " + res.Parent + " lacks, and must not be used with it again"
	if res.Discarded {
		what = "it was removed"
	}
	_, err = fmt.Fprintf(in.Stdout, "merged %s into %s, %s written; %s\n", res.Image, res.Parent, size(res.Written), what)
	return err
}

// present refuses a file that is not there.
func present(path string) error {
	if !exists(path) {
		return withHint(missingf("image %s: no such file", path), "check the path")
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, os.ErrNotExist)
}
