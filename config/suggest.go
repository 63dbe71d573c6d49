package config

import "strings"

// nearest is the known word that was most likely meant, or none.
func nearest(word string, known []string) string {
	if len(word) > MaxName {
		return ""
	}
	word = strings.ReplaceAll(strings.ToLower(word), "-", "_")
	best, least := "", 3
	for _, k := range known {
		limit := max(1, len(k)/3)
		if d := distance(word, k); d < least && d <= limit {
			best, least = k, d
		}
	}
	if best == "" {
		best = sameStart(word, known)
	}
	return best
}

// sameStart is the known word that begins alike: repository for repositories.
func sameStart(word string, known []string) string {
	const letters = 5
	for _, k := range known {
		if len(word) >= letters && strings.HasPrefix(k, word[:letters]) {
			return k
		}
	}
	return ""
}

// distance counts letters added, dropped, changed, or swapped with their
// neighbour (optimal string alignment).
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
