package layer

import "math/bits"

// BitRun tells whether bit first of a bitmap is set, and how many of the n bits
// from there are like it. highFirst: the first bit of a byte is its highest.
func BitRun(b []byte, first, n int64, highFirst bool) (set bool, run int64) {
	bit := func(i int64) bool {
		if highFirst {
			return b[i/8]&(0x80>>(i%8)) != 0
		}
		return b[i/8]&(1<<(i%8)) != 0
	}
	set = bit(first)
	whole := byte(0)
	if set {
		whole = 0xff
	}
	for i := first + 1; i < first+n; {
		if i%8 == 0 && b[i/8] == whole {
			i = min(i+8, first+n)
			continue
		}
		if bit(i) != set {
			return set, i - first
		}
		i++
	}
	return set, n
}

// SetBits sets the n bits of a bitmap from first on.
func SetBits(b []byte, first, n int64, highFirst bool) {
	for i := first; i < first+n; i++ {
		mask := byte(1) << (i % 8)
		if highFirst {
			mask = bits.Reverse8(mask)
		}
		b[i/8] |= mask
	}
}
