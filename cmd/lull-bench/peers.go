package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"
)

// What is done with a program; keys of its samples.
const (
	firstA    = "first backup of A"
	unchanged = "backup of the unchanged A"
	restoring = "restore of A'"
)

// samples is what was measured of a program.
type samples struct {
	program *program
	usage   map[string][]usage
	sizes   []int64 // of the repository after A, after B, after A'
}

func (s *samples) median(phase string) usage { return medians(s.usage[phase]) }

// size is that of the repository after some images; 0: not measured.
func (s *samples) size(images int) int64 {
	if len(s.sizes) < images {
		return 0
	}
	return s.sizes[images-1]
}

// peersCommand measures every program in rounds: in each, every timed program has
// its turn, so that what else the machine does meets all of them alike.
func peersCommand(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	dir := imagesFlag(flags)
	lullBinary := flags.String("lull", "bin/lull", "the lull `BINARY`")
	desync := flags.String("desync", filepath.Join(cacheDir(), "desync", "desync"), "desync's `BINARY`")
	server := flags.String("versitygw", ".cache/bin/versitygw", "the S3 server's `BINARY`")
	rounds := flags.Int("rounds", 3, "how often each timed program has its turn")
	only := flags.String("only", "", "only programs whose name and setting match the regular `EXPRESSION`")
	work := flags.String("work", cacheDir(), "`DIR` for repositories, 30 GB; what is made there is removed")
	if err := flags.Parse(args); err != nil {
		return err
	}
	images, err := findImages(*dir)
	if err != nil {
		return err
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("read -only: %w", err)
	}
	binary, err := filepath.Abs(*lullBinary)
	if err != nil {
		return fmt.Errorf("find lull: %w", err)
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("find lull: %w; make build makes it", err)
	}
	folder, err := filepath.Abs(*work) // some programs run in a folder of their own
	if err != nil {
		return fmt.Errorf("find work folder: %w", err)
	}
	scratch, err := os.MkdirTemp(folder, "peers-")
	if err != nil {
		return fmt.Errorf("make work folder: %w", err)
	}
	defer os.RemoveAll(scratch)
	b := &bench{images: images, scratch: scratch, log: os.Stderr, settle: unix.Sync}
	fast := takesCompression(ctx, binary, scratch)
	if !fast {
		b.say("lull takes no `compression: fast`: left out")
	}
	chunker, err := filepath.Abs(*desync)
	if err != nil {
		return fmt.Errorf("find desync: %w", err)
	}
	all := slices.DeleteFunc(programs(binary, chunker, fast), func(p *program) bool { return !wanted.MatchString(p.String()) })
	b.measureAll(ctx, present(all, b.say), *rounds)
	var s3 *overS3
	if wanted.MatchString("lull S3") {
		if s3, err = b.s3(ctx, binary, *server, *rounds); err != nil {
			b.say("%v", err)
		}
	}
	report(out, images, b.results, s3)
	return nil
}

// bench is one run.
type bench struct {
	images  []image
	scratch string
	log     io.Writer
	results []*samples
	// settle writes out what is dirty in memory, so that no program pays for the
	// one before it; nil: not needed.
	settle func()
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.log, format+"\n", args...) }

// measureAll never gives up: what fails is missing in the report.
func (b *bench) measureAll(ctx context.Context, programs []*program, rounds int) {
	for _, p := range programs {
		b.results = append(b.results, &samples{program: p, usage: map[string][]usage{}})
	}
	for round := range max(rounds, 1) {
		for _, s := range b.results {
			if round > 0 && !s.program.timed {
				continue
			}
			if err := b.turn(ctx, s, round); err != nil {
				b.say("measure %s: %v", s.program, err) // the others go on without it
			}
			if ctx.Err() != nil {
				b.say("interrupted: what follows is what there was until now")
				return
			}
		}
	}
}

// turn gives a program its turn. The first fills a repository with all three
// images, which later turns restore from; those make A's first backup anew, in a
// repository that is removed.
func (b *bench) turn(ctx context.Context, s *samples, round int) error {
	kept := place{dir: filepath.Join(b.scratch, fmt.Sprintf("%p", s), "kept")}
	here := kept
	if round > 0 {
		here.dir = filepath.Join(b.scratch, fmt.Sprintf("%p", s), "again")
	}
	kept.repo, here.repo = filepath.Join(kept.dir, "repo"), filepath.Join(here.dir, "repo")
	if err := b.fill(ctx, s, here, round == 0); err != nil {
		return err
	}
	if round > 0 {
		if err := os.RemoveAll(here.dir); err != nil {
			return err
		}
	}
	if !s.program.timed {
		return os.RemoveAll(kept.dir) // it was there for its sizes
	}
	return b.restore(ctx, s, kept)
}

// fill backs A up, and again, and the other two when all is set.
func (b *bench) fill(ctx context.Context, s *samples, at place, all bool) error {
	if err := b.prepare(ctx, s.program, at); err != nil {
		return err
	}
	if err := b.backup(ctx, s, at, b.images[0], firstA); err != nil {
		return err
	}
	if all {
		if err := b.weigh(s, at); err != nil {
			return err
		}
	}
	if s.program.timed && s.program.role != reference {
		if err := b.backup(ctx, s, at, b.images[0], unchanged); err != nil {
			return err
		}
	}
	if !all {
		return nil
	}
	for _, m := range b.images[1:] {
		if err := b.backup(ctx, s, at, m, "backup of "+label(m)); err != nil {
			return err
		}
		if err := b.weigh(s, at); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) prepare(ctx context.Context, p *program, at place) error {
	if err := os.MkdirAll(at.repo, 0o700); err != nil {
		return err
	}
	if p.role == lull {
		if err := writeConfig(at, p.setting, dirRepository(at.repo)); err != nil {
			return err
		}
	}
	if p.prepare == nil {
		return nil
	}
	for _, s := range p.prepare(at) {
		if _, err := measure(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) backup(ctx context.Context, s *samples, at place, m image, phase string) error {
	if err := warm(ctx, m.path); err != nil {
		return err
	}
	return b.take(ctx, s, phase, s.program.backup(at, m))
}

func (b *bench) take(ctx context.Context, s *samples, phase string, st step) error {
	if b.settle != nil {
		b.settle()
	}
	u, err := measure(ctx, st)
	if err != nil {
		return err
	}
	b.say("%-28s %-28s %7.1f s wall %7.1f s cpu %5d MiB", s.program, phase, u.wall, u.cpu, u.peak>>20)
	s.usage[phase] = append(s.usage[phase], u)
	return nil
}

// weigh notes the repository's size.
func (b *bench) weigh(s *samples, at place) error {
	n, err := bytesIn(at.repo)
	b.say("%-28s %-28s %7d MB", s.program, "stored", n/1e6)
	s.sizes = append(s.sizes, n)
	return err
}

// restore brings A' back, and compares it once.
func (b *bench) restore(ctx context.Context, s *samples, from place) error {
	if s.program.restore == nil {
		return nil
	}
	to := filepath.Join(b.scratch, "restored")
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(to)
	m := b.images[2]
	st := s.program.restore(from, m, to)
	st.made = to // lull and cp make it durable by themselves
	if err := b.take(ctx, s, restoring, st); err != nil {
		return err
	}
	if len(s.usage[restoring]) > 1 {
		return nil
	}
	return same(ctx, m.path, to)
}

var errDiffers = errors.New("restored image differs")

// same compares the one file under a folder with an image.
func same(ctx context.Context, path, folder string) error {
	file, err := largest(folder)
	if err != nil {
		return err
	}
	if err := exec.CommandContext(ctx, "cmp", "-s", path, file).Run(); err != nil {
		return fmt.Errorf("%w: %s: %w", errDiffers, file, err)
	}
	return nil
}

// largest finds the largest file under a folder.
func largest(folder string) (found string, err error) {
	most := int64(-1)
	err = filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > most {
			found, most = path, info.Size()
		}
		return err
	})
	return found, err
}
