package s3

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
)

const day = 24 * time.Hour

// ofLock is what an error that speaks of locks means, or nil. There is no code for
// it: an object under lock is AccessDenied on AWS and versitygw, InvalidRequest on
// MinIO, and only the message tells more.
func ofLock(r *minio.ErrorResponse) error {
	message := strings.ToLower(r.Message)
	lock := strings.Contains(message, "object lock") || strings.Contains(message, "objectlock")
	switch {
	case r.Code == "NoSuchObjectLockConfiguration", r.Code == "ObjectLockConfigurationNotFoundError":
		return blob.ErrNoLocks
	case r.Code == "AccessDenied" && lock, r.Code == "ObjectLocked", strings.Contains(message, "worm protected"):
		return blob.ErrLocked
	case lock && (strings.Contains(message, "missing") || strings.Contains(message, "not enabled")):
		return blob.ErrNoLocks
	}
	return nil
}

// lockNew makes a PUT lock what it creates.
func lockNew(ctx context.Context, opts *minio.PutObjectOptions) error {
	l := blob.LockOf(ctx)
	if l == (blob.Lock{}) {
		return nil
	}
	if err := l.Check(); err != nil {
		return err
	}
	opts.Mode = modeOf(l.Mode)
	opts.RetainUntilDate = wholeSeconds(l.Until)
	return nil
}

func modeOf(m blob.LockMode) minio.RetentionMode {
	return minio.RetentionMode(strings.ToUpper(string(m)))
}

// wholeSeconds rounds up: a lock never ends before its time.
func wholeSeconds(t time.Time) time.Time {
	if whole := t.UTC().Truncate(time.Second); whole.Before(t) {
		return whole.Add(time.Second)
	}
	return t.UTC()
}

func (s *Store) Locking(ctx context.Context) (blob.Locking, error) {
	l, err := s.locking(ctx)
	if err != nil {
		return blob.Locking{}, s.failed(ctx, "look at locks of", "", err)
	}
	return l, nil
}

func (s *Store) locking(ctx context.Context) (blob.Locking, error) {
	versioning, err := s.client.GetBucketVersioning(ctx, s.bucket)
	if err != nil && !unknown(err) {
		return blob.Locking{}, err
	}
	l := blob.Locking{Versioned: err == nil && versioning.Status != ""} // suspended ones keep old versions, too
	enabled, mode, validity, unit, err := s.client.GetObjectLockConfig(ctx, s.bucket)
	if sentinel(err) == blob.ErrNoLocks || unknown(err) {
		return l, nil
	}
	if err != nil {
		return blob.Locking{}, err
	}
	l.Enabled = enabled == "Enabled"
	if l.Enabled && mode != nil && validity != nil && unit != nil {
		l.Mode, l.For = blob.LockMode(strings.ToLower(string(*mode))), time.Duration(min(*validity, 36500))*day
		if *unit == minio.Years {
			l.For = time.Duration(min(*validity, 100)) * 365 * day
		}
	}
	return l, nil
}

// unknown is the error of a store that has never heard of such a request.
func unknown(err error) bool {
	var r minio.ErrorResponse
	return errors.As(err, &r) && (r.Code == "NotImplemented" || r.Code == "MethodNotAllowed" || r.Code == "VersioningNotConfigured" ||
		r.StatusCode == 501 || r.StatusCode == 405)
}

// Retain asks once in the usual case: a store refuses by itself to weaken a lock.
func (s *Store) Retain(ctx context.Context, name string, l blob.Lock) error {
	err := begin(ctx, name)
	if err == nil {
		err = l.Check()
	}
	if err == nil {
		err = s.retain(ctx, name, l)
	}
	if err != nil {
		return s.failed(ctx, "lock", name, err)
	}
	return nil
}

func (s *Store) retain(ctx context.Context, name string, l blob.Lock) error {
	until := wholeSeconds(l.Until)
	err := s.putRetention(ctx, name, l.Mode, until)
	if kind := sentinel(err); kind != blob.ErrLocked && kind != blob.ErrDenied {
		return err
	}
	// It has a lock that lasts longer or is stricter, perhaps.
	held, heldErr := s.retention(ctx, name, "")
	switch {
	case heldErr != nil || !held.Holds(time.Now()):
		return err
	case held.Mode == blob.Governance && l.Mode == blob.Compliance:
		return fmt.Errorf("%w: its governance lock until %s must be over first", blob.ErrLocked, held.Until.Format(time.RFC3339))
	case !until.After(held.Until):
		return nil
	case held.Mode != l.Mode:
		return s.putRetention(ctx, name, held.Mode, until)
	}
	return err
}

func (s *Store) putRetention(ctx context.Context, name string, m blob.LockMode, until time.Time) error {
	mode := modeOf(m)
	return s.client.PutObjectRetention(ctx, s.bucket, s.prefix+name,
		minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until})
}

func (s *Store) Retention(ctx context.Context, name string) (blob.Lock, error) {
	err := begin(ctx, name)
	var l blob.Lock
	if err == nil {
		l, err = s.retention(ctx, name, "")
	}
	if err != nil {
		return blob.Lock{}, s.failed(ctx, "look at the lock of", name, err)
	}
	return l, nil
}

// retention is the lock of a version, or of the newest without its id.
func (s *Store) retention(ctx context.Context, name, version string) (blob.Lock, error) {
	mode, until, err := s.client.GetObjectRetention(ctx, s.bucket, s.prefix+name, version)
	var r minio.ErrorResponse
	if errors.As(err, &r) && r.Code == "NoSuchObjectLockConfiguration" {
		return blob.Lock{}, nil // of the object; the bucket's is another
	}
	if err != nil && sentinel(err) == nil && !errors.As(err, &r) && ctx.Err() == nil {
		return s.lockInHead(ctx, name, version) // versitygw 1.8 names the reply's element otherwise
	}
	if err != nil || mode == nil || until == nil || until.IsZero() {
		return blob.Lock{}, err
	}
	return blob.Lock{Mode: blob.LockMode(strings.ToLower(string(*mode))), Until: *until}, nil
}

// lockInHead reads a lock from the reply to a HEAD, which has it, too, for those who
// may see it.
func (s *Store) lockInHead(ctx context.Context, name, version string) (blob.Lock, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{VersionID: version})
	mode := info.Metadata.Get("X-Amz-Object-Lock-Mode")
	if err != nil || mode == "" {
		return blob.Lock{}, err
	}
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil {
		return blob.Lock{}, fmt.Errorf("read the end of its lock: %w", err)
	}
	return blob.Lock{Mode: blob.LockMode(strings.ToLower(mode)), Until: until}, nil
}
