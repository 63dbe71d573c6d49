package qemu

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// As QEMU 7.2 says it of a q35 with a root port.
func TestPlaces(t *testing.T) {
	var buses []pciBus
	err := json.Unmarshal([]byte(`[{"bus": 0, "devices": [
		{"bus": 0, "qdev_id": "", "slot": 0, "function": 0},
		{"bus": 0, "qdev_id": "disk0", "slot": 31, "function": 7},
		{"bus": 0, "qdev_id": "port", "slot": 2, "function": 0, "pci_bridge": {
			"bus": {"number": 0, "secondary": 1}, "devices": [{"bus": 1, "qdev_id": "disk1", "slot": 0, "function": 0}]}}]}]`), &buses)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, b := range buses {
		b.places(got, maxBridges)
	}
	if diff := cmp.Diff(map[string]string{"disk0": "0000:00:1f.7", "port": "0000:00:02.0", "disk1": "0000:01:00.0"}, got); diff != "" {
		t.Error(diff)
	}
}
