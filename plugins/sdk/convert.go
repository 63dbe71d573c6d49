package sdk

import (
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

// FindDisk says which of the VM's disks it is that a guest sees, by all that is known of it
// there: see quiesce.Find. ErrLeftOut: the restore point will not have it, or nobody can tell.
func FindDisk(disks []Disk, seen Disk) (name string, err error) { return quiesce.Find(disks, seen) }

func request(r *proto.Request) Request { return Request{Run: r.GetRun(), VM: r.GetVm()} }

func prepareRequest(r *proto.PrepareRequest) PrepareRequest {
	out := PrepareRequest{Request: request(r.GetRequest())}
	for _, d := range r.GetDisks() {
		out.Disks = append(out.Disks, Disk{
			Name: d.GetName(), Size: d.GetSize(), Serial: d.GetSerial(), Address: d.GetAddress(), LeftOut: d.GetLeftOut(),
		})
	}
	return out
}

func components(all []Component) []*proto.Component {
	var out []*proto.Component
	for _, c := range all {
		out = append(out, &proto.Component{Name: text(c.Name), Files: texts(c.Files), Disks: texts(c.Disks)})
	}
	return out
}

func texts(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, text(s))
	}
	return out
}

func completeRequest(r *proto.CompleteRequest) CompleteRequest {
	out := CompleteRequest{Request: request(r.GetRequest()), Point: r.GetPoint(), Level: level(r.GetLevel())}
	for _, o := range r.GetOutcomes() {
		c := o.GetComponent()
		out.Outcomes = append(out.Outcomes, Outcome{
			Component: Component{Name: c.GetName(), Files: c.GetFiles(), Disks: c.GetDisks()},
			Succeeded: o.GetSucceeded(), Level: level(o.GetLevel()), Reason: o.GetReason(),
		})
	}
	return out
}

// level is that of a restore point.
func level(l proto.Level) quiesce.Level {
	return map[proto.Level]quiesce.Level{
		proto.Level_LEVEL_CRASH:       quiesce.LevelCrash,
		proto.Level_LEVEL_SAVED_STATE: quiesce.LevelSavedState,
		proto.Level_LEVEL_FILESYSTEM:  quiesce.LevelFilesystem,
		proto.Level_LEVEL_APPLICATION: quiesce.LevelApplication,
	}[l]
}

func restoreRequest(r *proto.RestoreRequest) RestoreRequest {
	return RestoreRequest{VM: r.GetVm(), Point: r.GetPoint(), Document: r.GetDocument()}
}
