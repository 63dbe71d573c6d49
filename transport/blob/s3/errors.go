package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/minio/minio-go/v7"

	"github.com/lull-backup/lull/transport/blob"
)

// failed says what was done to which object of the store, in the contract's words.
func (s *Store) failed(ctx context.Context, verb, name string, err error) error {
	var u *url.Error
	if errors.As(err, &u) { // says method and URL over again
		err = u.Err
	}
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	if kind := sentinel(err); kind != nil && !errors.Is(err, kind) {
		err = fmt.Errorf("%w: %w", kind, err)
	}
	err = fmt.Errorf("%s %s%s: %w", verb, s.name, name, err)
	if next := hint(err); next != "" {
		return blob.WithHint(err, next)
	}
	return err
}

func hint(err error) string {
	switch {
	case errors.Is(err, blob.ErrLocked):
		return "it goes once its lock is over"
	case errors.Is(err, blob.ErrNoLocks):
		return "make a bucket with object lock, which most stores allow at its creation only"
	case errors.Is(err, blob.ErrUntrusted):
		return "set ca_file to the certificate of the authority that signed the store's"
	case errors.Is(err, blob.ErrUnreachable):
		return "check endpoint, network and that the store runs"
	case errors.Is(err, blob.ErrDenied):
		return "check the credentials, and what the store lets them do in the bucket"
	case errors.Is(err, blob.ErrNoBucket):
		return "check bucket, or create it"
	case errors.Is(err, blob.ErrNoSpace):
		return "make room in the store or raise its quota"
	}
	return ""
}

// sentinel is the contract's word for an error of the library or the network, or
// nil when it has none: then the error is taken for passing.
func sentinel(err error) error {
	var reply minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reply):
		return ofReply(&reply)
	case untrusted(err):
		return blob.ErrUntrusted
	}
	for _, known := range []error{blob.ErrNotFound, blob.ErrExists, blob.ErrRange} {
		if errors.Is(err, known) {
			return known
		}
	}
	var op *net.OpError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil // the caller's, not the network's
	case errors.As(err, &op), errors.As(err, &dns), errors.As(err, &timeout) && timeout.Timeout(),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return blob.ErrUnreachable
	}
	return nil
}

func untrusted(err error) bool {
	var verify *tls.CertificateVerificationError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid)
}

// ofReply goes by the store's code first; statuses alone say less.
func ofReply(r *minio.ErrorResponse) error {
	if kind := ofLock(r); kind != nil {
		return kind
	}
	switch r.Code {
	case "NoSuchBucket":
		return blob.ErrNoBucket
	case "NoSuchKey":
		return blob.ErrNotFound
	case "PreconditionFailed":
		return blob.ErrExists
	case "InvalidRange":
		return blob.ErrRange
	case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch",
		"XAdminUserNotFound": // versitygw's, with status 404
		return blob.ErrDenied
	case "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "InsufficientStorage":
		return blob.ErrNoSpace
	case "ExpiredToken", "ExpiredTokenException":
		return nil // a new one comes
	}
	switch r.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return blob.ErrDenied
	case http.StatusNotFound:
		return blob.ErrNotFound
	case http.StatusPreconditionFailed:
		return blob.ErrExists
	case http.StatusRequestedRangeNotSatisfiable:
		return blob.ErrRange
	case http.StatusInsufficientStorage:
		return blob.ErrNoSpace
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return blob.ErrUnreachable
	}
	return nil
}
