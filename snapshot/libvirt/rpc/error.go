package rpc

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lull-backup/lull/snapshot"
)

// ErrClosed: the daemon closed the connection, or Close was called. That is how the end
// or the restart of a daemon shows.
var ErrClosed = errors.New("connection to libvirt closed")

// ErrProtocol: what was sent is not what the protocol allows.
var ErrProtocol = errors.New("libvirt's protocol violated")

// ErrSilent: the daemon holds the connection but does not answer. What it was asked it
// may yet do.
var ErrSilent = errors.New("libvirt does not answer")

// Code is libvirt's virErrorNumber.
type Code int32

// Codes that lull tells apart.
const (
	CodeInternal             Code = 1
	CodeNoSupport            Code = 3
	CodeInvalidArg           Code = 8
	CodeOperationFailed      Code = 9
	CodeXMLError             Code = 27
	CodeOperationDenied      Code = 29
	CodeSystem               Code = 38
	CodeNoDomain             Code = 42
	CodeAuthFailed           Code = 45
	CodeOperationInvalid     Code = 55
	CodeConfigUnsupported    Code = 67
	CodeOperationTimeout     Code = 68
	CodeNoDomainSnapshot     Code = 72
	CodeArgumentUnsupported  Code = 74
	CodeOperationAborted     Code = 78
	CodeAuthCancelled        Code = 79
	CodeNoDomainMetadata     Code = 80
	CodeBlockCopyActive      Code = 83
	CodeOperationUnsupported Code = 84
	CodeAgentUnresponsive    Code = 86
	CodeResourceBusy         Code = 87
	CodeAccessDenied         Code = 88
	CodeAuthUnavailable      Code = 94
	CodeAgentUnsynced        Code = 97
	CodeDeviceMissing        Code = 99
	CodeNoDomainCheckpoint   Code = 103
	CodeAgentCommandTimeout  Code = 111
	CodeAgentCommandFailed   Code = 112
)

// Error is a call that libvirt refused. It is also the snapshot error that its code
// means, where one does: ErrNotFound, ErrBusy, ErrGuestSilent, ErrUnsupported.
type Error struct {
	Code    Code
	From    int32  // virErrorDomain: the part of libvirt that says so; 10 is QEMU's driver
	Message string // for people; not stable between versions
}

func (e *Error) Error() string { return e.Message }

// Is tells what the code means.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case CodeNoDomain:
		return target == snapshot.ErrNotFound
	case CodeOperationTimeout, CodeResourceBusy: // the first: another job holds the domain
		return target == snapshot.ErrBusy
	case CodeAgentUnresponsive, CodeAgentUnsynced, CodeAgentCommandTimeout:
		return target == snapshot.ErrGuestSilent
	case CodeNoSupport, CodeConfigUnsupported, CodeOperationUnsupported, CodeArgumentUnsupported:
		return target == snapshot.ErrUnsupported
	}
	return false
}

// HasCode tells whether err is an Error of one of these codes.
func HasCode(err error, codes ...Code) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	return slices.Contains(codes, e.Code)
}

// maxMessage bounds what of a message is kept, in bytes.
const maxMessage = 4096

// parseError reads struct remote_error.
func parseError(payload []byte) error {
	r := &reader{b: payload}
	e := &Error{Code: Code(r.u32()), From: int32(r.u32())}
	var message, s opt
	message.get(r)
	r.u32() // level
	if r.present() {
		new(Domain).get(r)
	}
	for range 3 {
		s.get(r)
	}
	r.u32() // int1
	r.u32() // int2
	if r.present() {
		r.str() // a network
		r.take(uuidSize)
	}
	if err := r.end(); err != nil {
		return err
	}
	text := strings.Join(strings.Fields(string(message)), " ")
	e.Message = text[:min(len(text), maxMessage)]
	if e.Message == "" {
		e.Message = fmt.Sprintf("libvirt error %d", e.Code)
	}
	return withAdvice(e)
}

// withAdvice says what to do about what an administrator meets.
func withAdvice(e *Error) error {
	switch {
	case e.Code == CodeOperationTimeout && strings.Contains(e.Message, "state change lock"):
		return snapshot.WithHint(e, "another job holds the domain: see virsh domjobinfo; end it with virsh domjobabort or wait")
	case e.Code == CodeAccessDenied, e.Code == CodeOperationDenied:
		return snapshot.WithHint(e, "run lull as root, or allow it in libvirt's access rules (polkit)")
	}
	return e
}
