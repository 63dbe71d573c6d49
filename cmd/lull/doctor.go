package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lull-backup/lull/agent"
	"github.com/lull-backup/lull/transport/blob"
	"github.com/lull-backup/lull/transport/blob/probe"
	"github.com/lull-backup/lull/transport/repo"
)

func (in *invocation) doctorCommand() *cobra.Command {
	var locks bool
	cmd := in.addRepositoryFlags(&cobra.Command{
		Use:   "doctor",
		Short: "Look for what is wrong, or will be",
		Long: "Look at every repository of the configuration, or at the one that is named: can it\n" +
			"be reached and opened, does its store keep its promises, is its clock right, are\n" +
			"objects locked as they should be, is anything hidden, which role does its key play?\n\n" +
			"Then look at every VM of the configuration: hold its chain, the files beside its disks\n" +
			"and the journal against each other, and tell what an earlier run has left.\n\n" +
			"It writes nothing but a few objects under probe/, which it deletes again.",
		Args: argCount(0, 0, ""),
		RunE: in.run(func(cmd *cobra.Command, _ []string) error { return in.doctor(cmd.Context(), locks) }),
	})
	cmd.Flags().BoolVar(&locks, "locks", false, "try locks, too, which takes some seconds")
	return cmd
}

// Results of a diagnosis, from good to bad.
const (
	resultOK      = "ok"
	resultUnknown = "unknown"
	resultWarning = "warning"
	resultFailed  = "failed"
)

// diagnosis is one thing that the doctor looked at.
type diagnosis struct {
	Subject string `json:"subject"` // such as: repository main
	Check   string `json:"check"`
	Result  string `json:"result"`
	Detail  string `json:"detail,omitempty"`
	Hint    string `json:"hint,omitempty"`
	Path    string `json:"path,omitempty"` // of the file that it is about
}

func (in *invocation) doctor(ctx context.Context, locks bool) error {
	targets, err := in.targets()
	if err != nil {
		return err
	}
	all := []diagnosis{}
	for _, t := range targets {
		e := &examination{in: in, t: t, subject: "repository " + t.repository.Name}
		e.run(ctx, locks)
		if ctx.Err() != nil {
			return fmt.Errorf("doctor: %w", ctx.Err())
		}
		all = append(all, e.found...)
	}
	if in.flags.repoDir == "" && in.flags.repository == "" && len(targets) > 0 {
		found, err := in.doctorVMs(ctx, targets[0].config)
		if err != nil {
			return fmt.Errorf("doctor: %w", agent.Interrupted(ctx, err))
		}
		all = append(all, found...)
	}
	return in.conclude("doctor", all)
}

// conclude shows what a doctor found; that something failed is its error.
func (in *invocation) conclude(doctor string, all []diagnosis) error {
	if err := in.showDiagnoses(all); err != nil {
		return err
	}
	failed := 0
	for _, d := range all {
		if d.Result == resultFailed {
			failed++
		}
	}
	if failed > 0 {
		return withHint(fmt.Errorf("%s: %s failed", doctor, count(failed, "check")), "do what the lines marked failed say")
	}
	return nil
}

// targets are the one repository that flags name, or all of the configuration.
func (in *invocation) targets() ([]target, error) {
	if in.flags.repoDir != "" || in.flags.repository != "" {
		t, err := in.target()
		return []target{t}, err
	}
	cfg, err := in.loadConfig()
	if err != nil {
		return nil, orElse(err, "--repo DIR")
	}
	var all []target
	for _, r := range cfg.Repositories {
		all = append(all, target{repository: r, config: cfg})
	}
	return all, nil
}

func (in *invocation) showDiagnoses(all []diagnosis) error {
	if in.flags.json {
		return writeJSON(in.Stdout, map[string]any{"checks": all})
	}
	tab := newTable("SUBJECT", "CHECK", "RESULT", "DETAIL")
	for _, d := range all {
		detail := d.Detail
		if d.Hint != "" {
			detail = strings.TrimPrefix(detail+"; "+d.Hint, "; ")
		}
		tab.add(d.Subject, d.Check, d.Result, detail)
	}
	return tab.write(in.Stdout)
}

// examination is of one repository.
type examination struct {
	in      *invocation
	t       target
	subject string
	found   []diagnosis
}

func (e *examination) add(check, result, detail, hint string) {
	e.found = append(e.found, diagnosis{Subject: e.subject, Check: check, Result: result, Detail: detail, Hint: hint})
}

// fail adds a check that an error ended; a right that lacks is no disease.
func (e *examination) fail(check string, err error) {
	result := resultFailed
	if errors.Is(err, blob.ErrDenied) && check != "reach" {
		result = resultUnknown
	}
	e.add(check, result, plainError(err), hintOf(err))
}

func (e *examination) run(ctx context.Context, locks bool) {
	r := e.t.repository
	if err := checkFolder(r); err != nil {
		e.fail("reach", err)
		return
	}
	store, closer, err := e.in.openStore(ctx, r, false)
	if err != nil {
		e.fail("reach", err)
		return
	}
	defer func() {
		if err := closer.Close(); err != nil {
			e.fail("reach", err)
		}
	}()
	if _, err := store.Stat(ctx, "config"); errors.Is(err, blob.ErrNotFound) {
		e.add("reach", resultFailed, "the store answers, and holds no repository", "make one with `lull init`, or bring it back with `lull repo undelete`")
	} else if err != nil {
		e.fail("reach", err)
		return
	} else {
		e.add("reach", resultOK, store.String(), "")
	}
	e.probe(ctx, store, locks)
	e.locks(ctx, store)
	e.hidden(ctx, store)
	e.key(ctx)
}

// probe turns findings into diagnoses: one line for all that is well.
func (e *examination) probe(ctx context.Context, store blob.Store, locks bool) {
	o := probeOptions(e.t.repository)
	if !locks {
		o.Lock = "" // the facts alone, for which nobody waits
	}
	report, err := e.in.runProbe(ctx, e.t.repository, store, o)
	if err != nil {
		e.fail("store", err)
		return
	}
	well, unknown := 0, 0
	for _, f := range report.Findings {
		switch {
		case f.Verdict == probe.Missing && f.Weight == probe.Essential:
			e.add("store: "+f.Name, resultFailed, detailed(f), "")
		case f.Verdict == probe.Missing && f.Weight == probe.Useful:
			e.add("store: "+f.Name, resultWarning, detailed(f), "")
		case f.Verdict == probe.Unknown:
			unknown++
		case f.Verdict == probe.OK:
			well++
		}
	}
	e.add("store", resultOK, fmt.Sprintf("%s well", count(well, "promise")), "")
	if unknown > 0 {
		e.add("store", resultUnknown, fmt.Sprintf("%s not tried: the store's key lacks the right", count(unknown, "promise")), "")
	}
	if f, ok := report.Finding("clock"); ok && f.Verdict == probe.OK {
		e.add("clock", resultOK, f.Detail, "")
	}
	e.in.warnLeft(report)
}

// newestLooked is how many of the newest restore points are held against object_lock.
const newestLooked = 16

// locks holds the bucket and the newest restore points against the configuration.
func (e *examination) locks(ctx context.Context, store blob.Store) {
	want := e.t.repository.ObjectLock
	has, err := blob.LockingOf(ctx, store)
	switch {
	case errors.Is(err, blob.ErrNoLocks):
		return // a folder
	case err != nil:
		e.fail("object lock", err)
		return
	case want == nil && has.Enabled:
		e.add("object lock", resultOK, "the bucket has it, object_lock does not ask for it", "")
		return
	case want == nil:
		return
	case !has.Enabled:
		e.add("object lock", resultFailed, "object_lock is set, and the bucket has no object lock: backups fail", "make a bucket with object lock, or remove object_lock")
		return
	}
	if e.t.config != nil {
		if differs := e.t.config.LockAgainstKeep(e.t.repository.Name); differs != "" {
			e.add("object lock and keep", resultWarning, differs, hintLockDays)
		}
	}
	points, err := newest(ctx, store)
	if err != nil {
		e.fail("object lock", err)
		return
	}
	now := time.Now()
	for _, p := range points {
		end := p.Created.Add(time.Duration(want.Days) * day)
		lock, err := blob.RetentionOf(ctx, store, p.Name)
		if err != nil {
			e.fail("object lock", err)
			return
		}
		if end.After(now) && (string(lock.Mode) != want.Mode || lock.Until.Before(end.Add(-time.Hour))) {
			e.add("object lock", resultWarning, fmt.Sprintf("%s is to be locked (%s) until %s, and is %s", p.Name, want.Mode, moment(end), lockText(lock)), "run `lull lock renew`")
			return
		}
	}
	e.add("object lock", resultOK, fmt.Sprintf("%s, %d days; %s looked at", want.Mode, want.Days, count(len(points), "restore point")), "")
}

func lockText(l blob.Lock) string {
	if l.Mode == "" {
		return "not locked"
	}
	return fmt.Sprintf("locked (%s) until %s", l.Mode, moment(l.Until))
}

// newest are the restore points that the store took last.
func newest(ctx context.Context, store blob.Store) (points []blob.Info, err error) {
	err = store.List(ctx, "points/", func(i blob.Info) error {
		points = append(points, i)
		return nil
	})
	slices.SortFunc(points, func(a, b blob.Info) int { return b.Created.Compare(a.Created) })
	return points[:min(len(points), newestLooked)], err
}

func (e *examination) hidden(ctx context.Context, store blob.Store) {
	n, example := 0, ""
	err := blob.HiddenOf(ctx, store, "", func(h blob.Hidden) error {
		n, example = n+1, h.Name
		return nil
	})
	switch {
	case errors.Is(err, blob.ErrNoVersions):
	case err != nil:
		e.fail("hidden objects", err)
	case n > 0:
		e.add("hidden objects", resultFailed, fmt.Sprintf("%s deleted or overwritten by other means than lull, such as %s", count(n, "object"), example),
			"change the store's credentials, then run `lull repo undelete`")
	default:
		e.add("hidden objects", resultOK, "none", "")
	}
}

// key opens the repository, and says what its key is good for.
func (e *examination) key(ctx context.Context) {
	var roles, label string
	err := e.in.withRepository(ctx, e.t, func(r *repo.Repository) error {
		roles, label = r.Roles().String(), r.Label()
		return nil
	})
	if err != nil {
		e.fail("key", err)
		return
	}
	e.add("key", resultOK, fmt.Sprintf("%s (%s)", roles, label), "")
}
