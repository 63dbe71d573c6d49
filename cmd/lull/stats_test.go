package main

import "testing"

func TestPicture(t *testing.T) {
	drawn, plain := picture{drawn: true}, picture{}
	if got := drawn.bar(50, 100); got != "████████████▏" {
		t.Errorf("bar %q", got)
	}
	if got := drawn.line([]int64{0, 50, 100}, 100); got != "▁▅█" {
		t.Errorf("line %q", got)
	}
	if got := plain.bar(50, 100) + drawn.bar(1, 0); got != "" {
		t.Errorf("bars %q where there are none", got)
	}
}
