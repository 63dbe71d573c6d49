package record

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Verify reads the logs in dirs, given in the order in which they are written,
// and reports every promise that does not hold. The error is only for what
// cannot be read at all.
func Verify(dirs []string, capacity int) (Report, error) {
	var r Report
	for _, dir := range dirs {
		l, problems, err := verifyLog(filepath.Join(dir, FileName), uint64(capacity))
		if err != nil {
			return Report{}, err
		}
		r.Logs = append(r.Logs, l)
		r.Problems = append(r.Problems, problems...)
	}
	r.Problems = append(r.Problems, compareLogs(r.Logs)...)
	return r, nil
}

// compareLogs is the proof that all disks show one instant: each is as far as
// the one before it, or one record behind.
func compareLogs(logs []LogReport) []string {
	var problems []string
	for i := 1; i < len(logs); i++ {
		first, before, l := logs[0], logs[i-1], logs[i]
		if l.Last > before.Last || first.Last > l.Last+1 {
			problems = append(problems, fmt.Sprintf("%s ends with record %d but %s with %d: not one instant",
				first.Path, first.Last, l.Path, l.Last))
		}
	}
	return problems
}

// verifyLog checks one disk. A log that does not exist yet is empty.
func verifyLog(path string, capacity uint64) (LogReport, []string, error) {
	slots, err := readSlots(path, capacity)
	if err != nil {
		return LogReport{}, nil, err
	}
	l := LogReport{Path: path}
	var problems []string
	for i, r := range slots {
		switch {
		case r == nil:
			l.Torn++
		case slot(r.Number, capacity) != uint64(i):
			problems = append(problems, fmt.Sprintf("%s: record %d is in slot %d", path, r.Number, i))
		default:
			l.Records++
			l.Last = max(l.Last, r.Number)
		}
	}
	for i, r := range slots {
		if r == nil && uint64(i) != slot(l.Last+1, capacity) { // that one is under the pen
			problems = append(problems, fmt.Sprintf("%s: the record in slot %d is torn", path, i))
		}
	}
	l.follow(slots, capacity)
	for _, g := range l.Gaps {
		problems = append(problems, fmt.Sprintf("%s: records %d to %d are missing", path, g.From, g.To))
	}
	return l, problems, nil
}

// follow walks from the oldest number that the ring must still hold to the last
// one, and notes gaps and boots.
func (l *LogReport) follow(slots []*Record, capacity uint64) {
	if l.Last == 0 {
		return
	}
	oldest := uint64(1)
	if l.Last >= capacity {
		// The slot of last+1 may be half overwritten, so its old record may be gone.
		oldest = l.Last + 2 - capacity
	}
	for n := oldest; n <= l.Last; n++ {
		i := slot(n, capacity)
		if i >= uint64(len(slots)) || slots[i] == nil || slots[i].Number != n {
			l.miss(n)
			continue
		}
		if l.First == 0 {
			l.First = n
		}
		l.wrote(*slots[i])
	}
}

func (l *LogReport) miss(n uint64) {
	if k := len(l.Gaps); k > 0 && l.Gaps[k-1].To == n-1 {
		l.Gaps[k-1].To = n
		return
	}
	l.Gaps = append(l.Gaps, Gap{From: n, To: n})
}

func (l *LogReport) wrote(r Record) {
	if k := len(l.Boots); k > 0 && l.Boots[k-1].Boot == r.Boot {
		l.Boots[k-1].Last = r.Number
		return
	}
	l.Boots = append(l.Boots, Boot{Boot: r.Boot, First: r.Number, Last: r.Number})
}

// readSlots reads the ring; a slot without a whole record is nil.
func readSlots(path string, capacity uint64) ([]*Record, error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	defer f.Close()
	var slots []*Record
	buf := make([]byte, RecordSize)
	for uint64(len(slots)) < capacity {
		n, err := io.ReadFull(f, buf)
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("read log %s: %w", path, err)
		}
		clear(buf[n:])
		slots = append(slots, nil)
		if r, err := decode(buf); err == nil {
			slots[len(slots)-1] = &r
		}
	}
	return slots, nil
}
