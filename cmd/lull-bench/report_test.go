package main

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedians(t *testing.T) {
	got := medians([]usage{{wall: 3, cpu: 1, peak: 10}, {wall: 1, cpu: 2, peak: 30}, {wall: 2, cpu: 9, peak: 20}})
	if want := (usage{wall: 2, cpu: 2, peak: 20}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := medians([]usage{{wall: 1}, {wall: 2}}); got.wall != 1.5 {
		t.Errorf("median of two: %v", got.wall)
	}
	if got := medians(nil); got != (usage{}) {
		t.Errorf("median of none: %+v", got)
	}
}

func TestTargetVerdict(t *testing.T) {
	verdict := func(x target) string {
		cells := strings.Split(x.String(), "|")
		return strings.Trim(cells[len(cells)-2], " *")
	}
	got := []string{
		verdict(target{value: 0.5, aim: 0.5}), verdict(target{value: 0.51, aim: 0.5}),
		verdict(target{value: 1, aim: 1, strictly: true}), verdict(target{value: 0.99, aim: 1, strictly: true}),
		verdict(target{value: math.NaN(), aim: 1}), verdict(target{value: math.Inf(1), aim: 1}),
	}
	want := []string{"met", "not met", "not met", "met", "not measured", "not measured"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The table and the targets of made-up results: each target takes the program that
// it speaks of.
func TestReport(t *testing.T) {
	result := func(p *program, wall float64, size int64) *samples {
		u := usage{wall: wall, cpu: 2 * wall, peak: 100 << 20}
		return &samples{program: p, sizes: []int64{size / 2, size / 4 * 3, size}, usage: map[string][]usage{firstA: {u}, unchanged: {u}, restoring: {u}}}
	}
	var results []*samples
	for i, p := range programs("lull", "desync", true) {
		results = append(results, result(p, float64(10+i), int64(100+i)*1e6))
	}
	var out strings.Builder
	report(&out, make([]image, 3), results, &overS3{dir: []usage{{wall: 10, cpu: 10}}, bucket: []usage{{wall: 12, cpu: 11}}, server: []float64{2}})
	for _, want := range []string{
		"| lull default | 10.0 | 20.0 | 100 | 10.0 | 20.0 | 10.0 | 20.0 | 100 | 50 | 75 | 100 |",
		"best of restic, desync and casync with compression | 0.83 | 0.50 | **not met** |",
		"zstd -1 -T2` | 0.62 | 1.00 | met |",
		"smallest peer at any setting | 0.98 | 0.93 | **not met** |",
		"processor time of lull | 1.10 | 1.15 | met |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "not measured") {
		t.Errorf("a target finds no program:\n%s", out.String())
	}
}

// Where nothing was measured, no target is met.
func TestReportOfNothing(t *testing.T) {
	alone := &samples{program: lullProgram("lull", "default"), sizes: []int64{1, 2, 3}, usage: map[string][]usage{firstA: {{wall: 1, cpu: 1}}}}
	for _, results := range [][]*samples{nil, {alone}} {
		for _, x := range targets(results, nil) {
			if !strings.Contains(x.String(), "not measured") {
				t.Errorf("%s", x)
			}
		}
	}
}
