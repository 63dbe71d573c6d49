package image

const (
	pageSize = 4096

	// shortestHole is the length in bytes below which zeros between data are
	// written along: another call would cost more than it saves.
	shortestHole = 32 << 10
)

// A page of zeros, as a constant: nothing can ever write it.
const (
	zero16   = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	zero64   = zero16 + zero16 + zero16 + zero16
	zero256  = zero64 + zero64 + zero64 + zero64
	zero1K   = zero256 + zero256 + zero256 + zero256
	zeroPage = zero1K + zero1K + zero1K + zero1K
)

// isZero tells whether p, of any length, is all zeros.
func isZero(p []byte) bool {
	for len(p) > pageSize {
		if string(p[:pageSize]) != zeroPage { // compares in place, without a copy
			return false
		}
		p = p[pageSize:]
	}
	return string(p) == zeroPage[:len(p)]
}

// nextData splits the beginning of p into zeros to skip and data to write; both
// may be 0, not together. Zeros shorter than shortestHole between data count as
// data.
func nextData(p []byte) (skip, data int) {
	skip = zeroRun(p)
	for end := skip; end < len(p); {
		end = skip + data + dataRun(p[skip+data:])
		zeros := zeroRun(p[end:])
		if zeros >= shortestHole || end+zeros == len(p) {
			return skip, end - skip
		}
		data = end + zeros - skip
		end += zeros
	}
	return skip, data
}

func zeroRun(p []byte) int {
	n := 0
	for n < len(p) && isZero(p[n:min(n+pageSize, len(p))]) {
		n = min(n+pageSize, len(p))
	}
	return n
}

func dataRun(p []byte) int {
	n := 0
	for n < len(p) && !isZero(p[n:min(n+pageSize, len(p))]) {
		n = min(n+pageSize, len(p))
	}
	return n
}
