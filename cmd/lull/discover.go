package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lull-backup/lull/config"
	"github.com/lull-backup/lull/snapshot"
)

// discoverTimeout bounds how long a libvirt is asked for its domains.
const discoverTimeout = 30 * time.Second

// discover is the configuration with the VMs that its hosts know of. One that does not
// answer has none; the error says so, and the others are there all the same. Of a VM whose
// tags are not known there is a warning.
func (in *invocation) discover(ctx context.Context, cfg *config.Config, hosts map[string]snapshot.Host) (*config.Config, error) {
	next, answers := census{}.take(ctx, cfg, hosts)
	var errs []error
	for _, a := range answers {
		errs = append(errs, a.failed)
		if a.vague != nil {
			in.warn("%v", a.vague)
		}
	}
	return next, errors.Join(errs...)
}

// census is what each host was found to have when it was asked last.
type census map[string][]config.FoundVM

// answer is what went wrong with a host.
type answer struct {
	host   string
	failed error // it did not answer
	vague  error // it did, but not of some VMs: only their names are known
}

// take asks the hosts, each for its own time. One that does not answer has what it had before,
// and a VM whose tags it cannot tell those that it had.
func (c census) take(ctx context.Context, cfg *config.Config, hosts map[string]snapshot.Host) (*config.Config, []answer) {
	var answers []answer
	for _, h := range cfg.Hosts {
		host, ok := hosts[h.Name].(snapshot.Discoverer)
		if !ok {
			continue
		}
		a := answer{host: h.Name}
		if list, err := ask(ctx, host); err != nil {
			a.failed = fmt.Errorf("host %s: %w", h.Name, err)
		} else {
			c[h.Name], a.vague = c.merge(h.Name, list)
		}
		cfg = cfg.With(h.Name, c[h.Name])
		answers = append(answers, a)
	}
	return cfg, answers
}

func ask(ctx context.Context, host snapshot.Discoverer) ([]snapshot.Found, error) {
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	return host.Discover(ctx)
}

// merge is what a host has now.
func (c census) merge(host string, list []snapshot.Found) (found []config.FoundVM, vague error) {
	var errs []error
	for _, d := range list {
		vm := config.FoundVM{Name: d.Name, Tags: d.Tags}
		if d.Problem != "" {
			errs = append(errs, fmt.Errorf("the tags of %s/%s are not known: %s", host, d.Name, d.Problem))
			if i := slices.IndexFunc(c[host], func(was config.FoundVM) bool { return was.Name == d.Name }); i >= 0 {
				vm.Tags = c[host][i].Tags
			}
		}
		found = append(found, vm)
	}
	return found, errors.Join(errs...)
}

// members finds the VMs of a group anew; nil where they are all in the file. With an error
// they are those that are known, of a host that does not answer the ones that it had.
func (in *invocation) members(cfg *config.Config, hosts map[string]snapshot.Host, group string) func(context.Context) ([]string, error) {
	if !cfg.Discovers() {
		return nil
	}
	known := census{}
	return func(ctx context.Context) ([]string, error) {
		now, answers := known.take(ctx, cfg, hosts)
		g := now.Groups[slices.IndexFunc(now.Groups, func(g config.Group) bool { return g.Name == group })]
		var errs []error
		for _, a := range answers {
			if g.Reaches(a.host) {
				errs = append(errs, a.failed, a.vague)
			}
		}
		return g.VMs, errors.Join(errs...)
	}
}
