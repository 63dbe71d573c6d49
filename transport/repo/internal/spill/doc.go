// Package spill sorts any number of records of one fixed size in bounded memory.
//
//	s := New(dir, size)
//	s.Add(record) ...
//	for record := range s.Sorted()      ascending by bytes, with repetitions
//	s.Close()
//
// Records gather in one buffer. A full one is sorted and written to a run: a file
// without a name in the folder, which ends with the process. Sorted merges the runs,
// reading each from its start to its end. Where there are many, fanIn of them are merged
// into one on the way, so that few files are open and each record is written
// log(n) times, with a base of fanIn: once or twice, in practice.
package spill
