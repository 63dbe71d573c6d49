package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lull-backup/lull/transport/blob"
)

// maxOffset is how far the store's clock may be off before it is worth a warning: S3
// itself refuses requests that are off by 15 minutes.
const maxOffset = 5 * time.Minute

// questions are asked in order; the later build on what the earlier found.
func questions(o Options) []question {
	list := []question{
		{"read after write", Essential, "a backup could not rely on what it has just stored", (*prober).readAfterWrite},
		{"conditional put", Essential, "two hosts could overwrite each other's objects, and a commit would not be one", (*prober).conditionalPut},
		{"race for a name", Essential, "two maintainers could both hold a lease, and a dead writer come back to commit", (*prober).race},
		{"list after write", Essential, "prune could overlook a running backup and delete what it needs", (*prober).listAfterWrite},
		{"list paging", Essential, "restore points would not be seen once there are many", (*prober).paging},
		{"list order", Optional, "nothing in lull needs it", (*prober).order},
		{"range read", Essential, "a restore could not read parts of packs", (*prober).ranges},
		{"delete", Useful, "forget and prune free no space", (*prober).remove},
		{"checksum", Useful, "data damaged on its way is stored, and found only by a check or a restore", (*prober).checksum},
		{"clock", Useful, "waiting times and the ends of locks are by the store's clock, schedules by this host's; S3 refuses requests that are off by a quarter of an hour", (*prober).clock},
		{"versions", Optional, "who holds a key that may write can overwrite objects, and who may delete can delete them for good", (*prober).versions},
		{"object lock", Optional, "who holds a key that may delete can delete the backups", (*prober).locks},
		{"default retention", Useful, "the bucket locks sessions and leases too: they stay, and nothing is freed before its time; remove the default, lull locks what is to be locked", (*prober).defaultRetention},
	}
	if o.Lock != "" {
		i := slices.IndexFunc(list, func(q question) bool { return q.name == "object lock" })
		list[i].weight = Essential
		list[i].consequence = "object_lock cannot be kept; make a bucket with object lock, or remove object_lock from the configuration"
	}
	return list
}

func (p *prober) readAfterWrite(ctx context.Context) (string, error) {
	for i := range rounds {
		name, data := p.name("read-", i), fmt.Appendf(nil, "round %d", i)
		if err := p.store.Create(ctx, name, data); err != nil {
			return "", err
		}
		got, err := p.store.Read(ctx, name, 0, -1)
		if errors.Is(err, blob.ErrNotFound) {
			return missing("an object is not there right after it was written")
		}
		if err != nil {
			return "", err
		}
		if !bytes.Equal(got, data) {
			return missing("an object reads differently from what was written")
		}
		if info, err := p.store.Stat(ctx, name); err != nil || info.Size != int64(len(data)) {
			return missing("an object of %d bytes is said to have %d: %v", len(data), info.Size, err)
		}
	}
	return fmt.Sprintf("%d rounds", rounds), nil
}

func (p *prober) conditionalPut(ctx context.Context) (string, error) {
	name := p.name("once")
	if err := p.store.Create(ctx, name, []byte("first")); err != nil {
		return "", err
	}
	err := p.store.Create(ctx, name, []byte("second"))
	if err != nil && !errors.Is(err, blob.ErrExists) {
		return "", err
	}
	got, readErr := p.store.Read(ctx, name, 0, -1)
	if readErr != nil {
		return "", readErr
	}
	if err == nil || string(got) != "first" {
		return missing("a second write of a name replaced the first")
	}
	return "a taken name is refused", nil
}

// race lets two writers go for one name at a time.
func (p *prober) race(ctx context.Context) (string, error) {
	for i := range rounds {
		name := p.name("race-", i)
		var errs [2]error
		var wg sync.WaitGroup
		for w := range errs {
			wg.Go(func() { errs[w] = p.store.Create(ctx, name, []byte{byte(w)}) })
		}
		wg.Wait()
		winner := -1
		for w, err := range errs {
			switch {
			case err == nil && winner >= 0:
				return missing("two writers both won")
			case err == nil:
				winner = w
			case !errors.Is(err, blob.ErrExists):
				return "", err
			}
		}
		if winner < 0 {
			return missing("of two writers none won")
		}
		if got, err := p.store.Read(ctx, name, 0, -1); err != nil || len(got) != 1 || int(got[0]) != winner {
			return missing("the object is not the winner's: %v", err)
		}
	}
	return fmt.Sprintf("%d races, one winner each", rounds), nil
}

func (p *prober) listAfterWrite(ctx context.Context) (string, error) {
	for i := range rounds {
		name := p.name("list-", i)
		if err := p.store.Create(ctx, name, nil); err != nil {
			return "", err
		}
		names, err := p.listed(ctx, p.prefix+"list-")
		if err != nil {
			return "", err
		}
		if !slices.Contains(names, name) {
			return missing("a list lags behind: an object is not in it right after it was written")
		}
	}
	return fmt.Sprintf("%d rounds", rounds), nil
}

// pager is a store whose lists come in pages.
type pager interface {
	ListPages(ctx context.Context, prefix string, page int, fn func(blob.Info) error) error
}

func (p *prober) paging(ctx context.Context) (string, error) {
	s, ok := p.store.(pager)
	if !ok {
		return "lists come whole", nil
	}
	want, err := p.page(ctx)
	if err != nil {
		return "", err
	}
	var got []string
	if err := s.ListPages(ctx, p.prefix+"page-", 2, collect(&got)); err != nil {
		return "", err
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return missing("of %d objects a list in pages of two names %d", len(want), len(got))
	}
	return fmt.Sprintf("%d objects in pages of two", len(want)), nil
}

// page makes some objects whose order is not that of their creation.
func (p *prober) page(ctx context.Context) (names []string, err error) {
	for _, end := range []string{"b", "a-2", "c", "a.1", "a-10"} {
		name := p.name("page-", end)
		if err := p.store.Create(ctx, name, nil); err != nil && !errors.Is(err, blob.ErrExists) {
			return nil, err
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (p *prober) order(ctx context.Context) (string, error) {
	if _, err := p.page(ctx); err != nil {
		return "", err
	}
	names, err := p.listed(ctx, p.prefix+"page-")
	if err != nil {
		return "", err
	}
	if !slices.IsSorted(names) {
		return missing("lists are in no order")
	}
	return "by name", nil
}

func (p *prober) ranges(ctx context.Context) (string, error) {
	name, data := p.name("range"), make([]byte, 1000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	if err := p.store.Create(ctx, name, data); err != nil {
		return "", err
	}
	for _, r := range [][2]int64{{0, 1}, {1, 998}, {999, 1}, {500, -1}} {
		got, err := p.store.Read(ctx, name, r[0], r[1])
		want := data[r[0]:]
		if r[1] >= 0 {
			want = want[:r[1]]
		}
		if err != nil && (errors.Is(err, blob.ErrDenied) || errors.Is(err, blob.ErrUnreachable)) {
			return "", err
		}
		if err != nil || !bytes.Equal(got, want) {
			return missing("bytes %d+%d: %d came back: %v", r[0], r[1], len(got), err)
		}
	}
	if _, err := p.store.Read(ctx, name, 990, 20); !errors.Is(err, blob.ErrRange) {
		return missing("a range beyond the end is not refused: %v", err)
	}
	return "", nil
}

func (p *prober) remove(ctx context.Context) (string, error) {
	name := p.name("delete-me")
	if err := p.store.Create(ctx, name, []byte("x")); err != nil {
		return "", err
	}
	err := p.store.Delete(ctx, name)
	if errors.Is(err, blob.ErrLocked) {
		return missing("a new object is locked already")
	}
	if err != nil {
		return "", err
	}
	if _, err := p.store.Read(ctx, name, 0, -1); !errors.Is(err, blob.ErrNotFound) {
		return missing("a deleted object still reads: %v", err)
	}
	names, err := p.listed(ctx, p.prefix+"delete-")
	if err != nil {
		return "", err
	}
	if len(names) > 0 {
		return missing("a deleted object is still listed")
	}
	return "", nil
}

// damager is a store that can be sent what its checksum does not fit.
type damager interface {
	RefusesDamage(ctx context.Context, name string) (bool, error)
}

func (p *prober) checksum(ctx context.Context) (string, error) {
	s, ok := p.store.(damager)
	if !ok {
		return "nothing lies between this host and the store that could damage data", nil
	}
	refuses, err := s.RefusesDamage(ctx, p.name("damaged"))
	if err != nil {
		return "", err
	}
	if !refuses {
		return missing("an object that does not fit its CRC-32C was taken")
	}
	return "CRC-32C is verified", nil
}

func (p *prober) clock(ctx context.Context) (string, error) {
	now, err := p.measure(ctx)
	if err != nil {
		return "", err
	}
	offset := p.report.Clock.Abs()
	detail := fmt.Sprintf("%v off this host's, give or take %v", p.report.Clock.Round(time.Millisecond), p.report.ClockError.Round(time.Millisecond))
	if offset-p.report.ClockError > maxOffset {
		return missing("it says %s, %s", now.UTC().Format(time.RFC3339), detail)
	}
	return detail, nil
}

// measure takes the store's time and says how it differs from the host's.
func (p *prober) measure(ctx context.Context) (time.Time, error) {
	name := p.name("clock-", len(p.names))
	before := p.o.Now()
	if err := p.store.Create(ctx, name, nil); err != nil {
		return time.Time{}, err
	}
	after := p.o.Now()
	info, err := p.store.Stat(ctx, name)
	if err != nil {
		return time.Time{}, err
	}
	took := after.Sub(before)
	p.report.Clock = info.Created.Sub(before.Add(took / 2))
	p.report.ClockError = took/2 + time.Second // HTTP tells whole seconds
	return info.Created, nil
}
