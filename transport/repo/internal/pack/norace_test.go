//go:build !race

package pack

// pooled is how often a pool may miss.
const pooled = 0
