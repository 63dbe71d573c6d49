//go:build race

package pack

// pooled is how often a pool may miss: under the race detector it drops a part of what it
// is given, on purpose.
const pooled = 16
