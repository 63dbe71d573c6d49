package sdk

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

// toStatus puts a writer's error on the wire.
func toStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var f *quiesce.Failure
	switch {
	case errors.As(err, &f):
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, text(err.Error()))
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return status.Error(codes.Canceled, text(err.Error()))
	default:
		if _, is := err.(interface{ GRPCStatus() *status.Status }); is {
			return err // gRPC's own, and not one of the guest service inside another
		}
		f = &quiesce.Failure{Class: quiesce.NotRetryable, Err: err}
	}
	message := err.Error()
	if err == error(f) && f.Err != nil {
		message = f.Err.Error()
	}
	st, derr := status.New(codes.FailedPrecondition, text(message)).WithDetails(&proto.Failure{
		Class: classes()[f.Class], Component: text(f.Component), Message: text(message), Hint: text(hint(f)), Advisory: f.Advisory,
	})
	if derr != nil {
		return status.Error(codes.FailedPrecondition, text(message))
	}
	return st.Err()
}

// hint is that of the failure, or of its cause: lull's own of a call into the guest, mostly.
func hint(f *quiesce.Failure) string {
	var h interface{ Hint() string }
	if f.Next == "" && errors.As(f.Err, &h) {
		return h.Hint()
	}
	return f.Next
}

func classes() map[quiesce.Class]proto.FailureClass {
	return map[quiesce.Class]proto.FailureClass{
		quiesce.NotRetryable:   proto.FailureClass_FAILURE_CLASS_NOT_RETRYABLE,
		quiesce.Retryable:      proto.FailureClass_FAILURE_CLASS_RETRYABLE,
		quiesce.Timeout:        proto.FailureClass_FAILURE_CLASS_TIMEOUT,
		quiesce.OutOfResources: proto.FailureClass_FAILURE_CLASS_OUT_OF_RESOURCES,
		quiesce.Vetoed:         proto.FailureClass_FAILURE_CLASS_VETOED,
		quiesce.NotPresent:     proto.FailureClass_FAILURE_CLASS_NOT_PRESENT,
	}
}

// text bounds what goes on the wire and makes it valid there.
func text(s string) string {
	if len(s) > proto.MaxText {
		s = s[:proto.MaxText]
	}
	return strings.ToValidUTF8(s, "?")
}
