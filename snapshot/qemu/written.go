package qemu

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lull-backup/lull/snapshot"
)

// Written asks QEMU, which counts from its start.
func (h *Host) Written(ctx context.Context, p snapshot.Plan) (map[string]int64, time.Duration, error) {
	bytes := map[string]int64{}
	err := h.during(ctx, p, func(m *monitor) error {
		var stats []struct {
			QDev  string `json:"qdev"`
			Stats struct {
				Written int64 `json:"wr_bytes"`
			} `json:"stats"`
		}
		if err := m.ask(ctx, "query-blockstats", nil, &stats); err != nil {
			return err
		}
		for _, s := range stats {
			for _, d := range p.Disks {
				if d.Device != "" && d.Device == s.QDev {
					bytes[d.Name] = s.Stats.Written
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("ask what %s writes: %w", p.VM, err)
	}
	return bytes, age(p.Instance), nil
}

// clockTicks of a second are what the kernel counts in for its users: USER_HZ.
const clockTicks = 100

// age is how long the process of an instance has run; 0: not known.
func age(instance string) time.Duration {
	start, err := strconv.ParseInt(instance[strings.LastIndexByte(instance, '-')+1:], 10, 64)
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return 0
	}
	return max(0, time.Duration(now.Nano())-time.Duration(start)*(time.Second/clockTicks))
}
