package repo

import (
	"fmt"
	"testing"
)

// A host with a hundred VMs and a year of nights: each point names the newest of all others,
// and a check holds each of those once.
func TestCheckHoldsEachHeadOnce(t *testing.T) {
	const vms, nights = 100, 365
	c := checker{heads: map[Head]struct{}{}}
	held := 0
	for night := range nights {
		heads := make([]Head, vms)
		for vm := range heads {
			heads[vm] = Head{Point: fmt.Sprintf("%d/%d", vm, night), Hash: Hash{byte(vm), byte(night)}}
		}
		for vm := range vms {
			held += len(c.unnamed(append(heads[:vm:vm], heads[vm+1:]...)))
		}
	}
	if held != vms*nights {
		t.Errorf("%d heads are held of %d points", held, vms*nights)
	}
	if again := c.unnamed([]Head{{Point: "0/0", Hash: Hash{1, 2, 3}}}); len(again) != 1 {
		t.Error("another hash is another head")
	}
}
