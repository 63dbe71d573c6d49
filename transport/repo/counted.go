package repo

import (
	"context"
	"sync/atomic"

	"github.com/lull-backup/lull/transport/blob"
)

// counted counts what a session asks of the store.
type counted struct {
	blob.Store
	requests, objects, stored atomic.Int64
}

func (c *counted) Create(ctx context.Context, name string, data []byte) error {
	c.requests.Add(1)
	err := c.Store.Create(ctx, name, data)
	if err == nil {
		c.objects.Add(1)
		c.stored.Add(int64(len(data)))
	}
	return err
}

func (c *counted) Read(ctx context.Context, name string, off, length int64) ([]byte, error) {
	c.requests.Add(1)
	return c.Store.Read(ctx, name, off, length)
}

func (c *counted) Stat(ctx context.Context, name string) (blob.Info, error) {
	c.requests.Add(1)
	return c.Store.Stat(ctx, name)
}

func (c *counted) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	c.requests.Add(1)
	return c.Store.List(ctx, prefix, fn)
}

func (c *counted) Delete(ctx context.Context, name string) error {
	c.requests.Add(1)
	return c.Store.Delete(ctx, name)
}
