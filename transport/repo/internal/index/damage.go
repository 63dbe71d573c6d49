package index

import (
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"unsafe"
)

// pageError says which mapped file is damaged. It is ErrDamaged.
type pageError struct {
	of     *mapped
	detail string
}

func (e *pageError) Error() string {
	return fmt.Sprintf("%v: %s in %s", ErrDamaged, e.detail, e.of.name)
}
func (e *pageError) Unwrap() error { return ErrDamaged }

func (m *mapped) damaged(format string, args ...any) error {
	return &pageError{m, fmt.Sprintf(format, args...)}
}

// faultError says which address could not be read. It is ErrDamaged.
type faultError uintptr

func (e faultError) Error() string {
	return fmt.Sprintf("%v: page at %#x cannot be read", ErrDamaged, uintptr(e))
}
func (e faultError) Unwrap() error { return ErrDamaged }

// blamed is the run that err says to be damaged; nil: none of these.
func (rs runs) blamed(err error) *run {
	var bad *pageError
	var fault faultError
	isBad, isFault := errors.As(err, &bad), errors.As(err, &fault)
	i := slices.IndexFunc(rs, func(r *run) bool {
		return isBad && bad.of == r.mapped || isFault && r.holds(uintptr(fault))
	})
	if i < 0 {
		return nil
	}
	return rs[i]
}

// holds tells whether an address lies in the mapping.
func (m *mapped) holds(address uintptr) bool {
	return address-uintptr(unsafe.Pointer(unsafe.SliceData(m.data))) < uintptr(len(m.data))
}

// guard runs fn, which reads mapped pages. A page that cannot be read (a failing
// disk, a file cut short by someone else) becomes an error, where without it the
// whole process would end.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // only memory faults have an address
			err = faultError(p.Addr())
		default:
			panic(p)
		}
	}()
	return fn()
}
