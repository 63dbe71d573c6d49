package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/transport/blob"
)

func (in *invocation) undeleteCommand() *cobra.Command {
	var list bool
	cmd := in.addPlaceFlags(&cobra.Command{
		Use:   "undelete",
		Short: "Bring back what others deleted or overwrote",
		Long: "Bring back the objects of a repository that someone deleted, or wrote over, with\n" +
			"other means than lull. That takes a bucket that keeps versions, and the rights of\n" +
			"the maintain role; lull's own deletions leave nothing to come back.",
		Example: "  lull repo undelete --repository offsite --list",
		Args:    argCount(0, 0, ""),
		RunE:    in.run(func(cmd *cobra.Command, _ []string) error { return in.undelete(cmd.Context(), list) }),
	})
	cmd.Flags().BoolVar(&list, "list", false, "only show what is hidden")
	return cmd
}

// hiddenLine is a hidden object as --json shows it.
type hiddenLine struct {
	Name     string    `json:"name"`
	Size     int64     `json:"size"`
	Created  time.Time `json:"created"`
	Deleted  bool      `json:"deleted"`
	Since    time.Time `json:"since"`
	Revealed bool      `json:"revealed"`
}

func (in *invocation) undelete(ctx context.Context, list bool) (err error) {
	t, err := in.target()
	if err != nil {
		return err
	}
	store, closer, err := in.openStore(ctx, t.repository, false)
	if err != nil {
		return fmt.Errorf("undelete %s: %w", t.repository.Name, err)
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	found := []hiddenLine{}
	err = blob.HiddenOf(ctx, store, "", func(h blob.Hidden) error {
		found = append(found, hiddenLine{Name: h.Name, Size: h.Size, Created: h.Created, Deleted: h.Deleted, Since: h.Since})
		return nil
	})
	for i := 0; err == nil && !list && i < len(found); i++ {
		err = blob.Reveal(ctx, store, found[i].Name)
		found[i].Revealed = err == nil
	}
	if err != nil {
		err = fmt.Errorf("undelete %s: %w", t.repository.Name, err)
		if len(found) == 0 {
			return err
		}
	}
	return errors.Join(in.showHidden(found), err)
}

func (in *invocation) showHidden(found []hiddenLine) error {
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]any{"hidden": found})
	}
	if len(found) == 0 {
		in.note("nothing is hidden")
		return nil
	}
	tab := newTable("OBJECT", "SIZE", "CREATED", "WAS", "AT", "NOW")
	for _, h := range found {
		was, now := "overwritten", "hidden"
		if h.Deleted {
			was = "deleted"
		}
		if h.Revealed {
			now = "back"
		}
		tab.add(h.Name, size(h.Size), moment(h.Created), was, moment(h.Since), now)
	}
	return tab.write(in.Stdout)
}
