package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Equal seeds play equal years, on the costs of real backups; a domain carries its
// share.
func TestYearIsDeterministic(t *testing.T) {
	year := func() (nights []night) {
		m := model{hosts: 50, days: 120, domain: 5, seed: 7, cost: defaultCost()}
		if err := m.calibrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		m.play(func(n *night) { nights = append(nights, *n) })
		return nights
	}
	nights := year()
	if diff := cmp.Diff(nights, year(), cmp.AllowUnexported(night{}, side{})); diff != "" {
		t.Error(diff)
	}
	for _, n := range nights {
		if n.stored <= 0 || n.part.fetch*10 < n.all.fetch*0.99 || n.part.fetch*10 > n.all.fetch*1.01 || n.all.cache < n.index {
			t.Errorf("night %d: %+v", n.number, n)
		}
	}
}
