package rpc

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
)

// MaxString bounds a string either way, in bytes, as libvirt does (REMOTE_STRING_MAX).
const MaxString = 4 << 20

// writer gathers the payload of a call.
type writer struct {
	b   []byte
	err error
}

func (w *writer) u32(v uint32) { w.b = binary.BigEndian.AppendUint32(w.b, v) }
func (w *writer) u64(v uint64) { w.b = binary.BigEndian.AppendUint64(w.b, v) }

func (w *writer) str(s string) {
	if len(s) > MaxString {
		w.err = fmt.Errorf("%w: a string of %d bytes, at most %d are possible", ErrProtocol, len(s), MaxString)
		return
	}
	w.u32(uint32(len(s)))
	w.b = append(w.b, s...)
	for len(w.b)%4 != 0 {
		w.b = append(w.b, 0)
	}
}

// reader takes a payload apart. Its first error stays, and all that is read after it
// is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("payload ends too soon")
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u32() uint32 {
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) u64() uint64 {
	b := r.take(8)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (r *reader) str() string {
	n := r.u32()
	if n > MaxString {
		r.fail("a string of %d bytes", n)
		return ""
	}
	padded := r.take(int(n+3) &^ 3)
	if padded == nil {
		return ""
	}
	return string(padded[:n])
}

// present reads what stands before an optional value.
func (r *reader) present() bool {
	n := r.u32()
	if n > 1 {
		r.fail("%d where 0 or 1 says whether a value follows", n)
	}
	return n == 1
}

// list reads as many elements as it says there are, of which each has least bytes at
// least: that bounds them by what was sent.
func list[T any](r *reader, least int, get func(*reader) T) []T {
	n := r.u32()
	if int64(n)*int64(least) > int64(len(r.b)) {
		r.fail("a list of %d elements in %d bytes", n, len(r.b))
		return nil
	}
	all := make([]T, 0, n)
	for range n {
		if r.err != nil {
			return nil
		}
		all = append(all, get(r))
	}
	return all
}

// end fails where something is left over: then it was not what was expected.
func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes too many", len(r.b))
	}
	return r.err
}

// argument is a value in a call; result is where one of a reply goes.
type (
	argument interface{ put(*writer) }
	result   interface{ get(*reader) }
	args     []argument
)

// The plain types of XDR. An opt is a string that may be absent: empty, it is.
type (
	u32  uint32
	i32  int32
	u64  uint64
	str  string
	opt  string
	strs []string
)

func (v u32) put(w *writer) { w.u32(uint32(v)) }
func (v i32) put(w *writer) { w.u32(uint32(v)) }
func (v u64) put(w *writer) { w.u64(uint64(v)) }
func (v str) put(w *writer) { w.str(string(v)) }

func (v opt) put(w *writer) {
	if v == "" {
		w.u32(0)
		return
	}
	w.u32(1)
	w.str(string(v))
}

func (v strs) put(w *writer) {
	w.u32(uint32(len(v)))
	for _, s := range v {
		w.str(s)
	}
}

func (v *u32) get(r *reader) { *v = u32(r.u32()) }
func (v *i32) get(r *reader) { *v = i32(r.u32()) }
func (v *u64) get(r *reader) { *v = u64(r.u64()) }
func (v *str) get(r *reader) { *v = str(r.str()) }

func (v *opt) get(r *reader) {
	if r.present() {
		*v = opt(r.str())
	}
}

// Types of a value in Params.
const (
	paramInt = iota + 1
	paramUint
	paramLong
	paramULong
	paramDouble
	paramBool
	paramString
)

// Params are values by their names: int64, uint64, float64, bool or string each.
type Params map[string]any

func (p *Params) get(r *reader) {
	type param struct {
		name  string
		value any
	}
	*p = Params{}
	for _, one := range list(r, 12, func(r *reader) param { return param{r.str(), r.value()} }) {
		(*p)[one.name] = one.value
	}
}

// put writes them in the order of their names.
func (p Params) put(w *writer) {
	w.u32(uint32(len(p)))
	for _, name := range slices.Sorted(maps.Keys(p)) {
		w.str(name)
		switch v := p[name].(type) {
		case uint64:
			w.u32(paramULong)
			w.u64(v)
		case string:
			w.u32(paramString)
			w.str(v)
		default:
			w.err = fmt.Errorf("%w: a value of type %T", ErrProtocol, v)
		}
	}
}

func (r *reader) value() any {
	switch kind := r.u32(); kind {
	case paramInt:
		return int64(int32(r.u32()))
	case paramUint:
		return uint64(r.u32())
	case paramLong:
		return int64(r.u64())
	case paramULong:
		return r.u64()
	case paramDouble:
		return math.Float64frombits(r.u64())
	case paramBool:
		return r.u32() != 0
	case paramString:
		return r.str()
	default:
		r.fail("a value of type %d", kind)
		return nil
	}
}
