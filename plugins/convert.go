package plugins

import (
	"github.com/lull-backup/lull/plugins/proto"
	"github.com/lull-backup/lull/quiesce"
)

func wireDisks(disks []quiesce.Disk) []*proto.Disk {
	var all []*proto.Disk
	for _, d := range disks {
		all = append(all, &proto.Disk{
			Name: wireText(d.Name), Size: d.Size, Serial: wireText(d.Serial), Address: wireText(d.Address), LeftOut: wireText(d.LeftOut),
		})
	}
	return all
}

// components are those that a plugin names. How many they are, the coordinator checks.
func components(wire []*proto.Component) []quiesce.Component {
	var all []quiesce.Component
	for _, c := range wire {
		all = append(all, quiesce.Component{Name: wireText(c.GetName()), Files: wireTexts(c.GetFiles()), Disks: wireTexts(c.GetDisks())})
	}
	return all
}

func wireTexts(texts []string) []string {
	var all []string
	for _, s := range texts {
		all = append(all, wireText(s))
	}
	return all
}

// wireOutcomes fit into a message: the coordinator has bounded what they are made of.
func wireOutcomes(outcomes []quiesce.Outcome) []*proto.Outcome {
	var all []*proto.Outcome
	for _, o := range outcomes {
		all = append(all, &proto.Outcome{
			Component: &proto.Component{Name: wireText(o.Name), Files: wireTexts(o.Files), Disks: wireTexts(o.Disks)},
			Succeeded: o.Succeeded, Level: wireLevel(o.Level), Reason: wireText(o.Reason),
		})
	}
	return all
}

func wireLevel(l quiesce.Level) proto.Level {
	return map[quiesce.Level]proto.Level{
		quiesce.LevelCrash:       proto.Level_LEVEL_CRASH,
		quiesce.LevelSavedState:  proto.Level_LEVEL_SAVED_STATE,
		quiesce.LevelFilesystem:  proto.Level_LEVEL_FILESYSTEM,
		quiesce.LevelApplication: proto.Level_LEVEL_APPLICATION,
	}[l]
}
