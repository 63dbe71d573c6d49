package guesttest

// Boot is what a guest starts from, for whoever starts it by other means than Start.
type Boot struct {
	Kernel, Initrd string
	Arguments      string // of the kernel
}

// Boot of the guest. It expects virtio ports of the names org.qemu.guest_agent.0,
// lull.side (the socket Side) and lull.acks (the file acks.log in Dir).
func (g *Guest) Boot() Boot {
	return Boot{Kernel: g.image.Kernel, Initrd: g.image.Initrd, Arguments: g.kernelArguments()}
}

// Memory of the guest, in bytes.
func (g *Guest) Memory() int64 { return g.options.Memory }

// Bus of disk i.
func (g *Guest) Bus(i int) Bus { return g.options.Disks[i].Bus }

// Records says whether the guest has a recorder.
func (g *Guest) Records() bool { return g.options.Pause > 0 }
