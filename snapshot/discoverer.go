package snapshot

import "context"

// Discoverer is a Host that knows VMs which nobody named to lull.
type Discoverer interface {
	// Discover names all VMs of the host, sorted, and looks no further. One that cannot be
	// looked at hides no other: its Problem says why.
	Discover(ctx context.Context) ([]Found, error)
}

// Found is a VM, and what its administrator says of it to lull.
type Found struct {
	Name    string
	Tags    []string
	Problem string // why its tags are not known
}
