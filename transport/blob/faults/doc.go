// Package faults is a decorator around a store that fails as a test tells it to,
// and writes down every operation.
//
//	m := mem.New()
//	f := faults.New(m)
//	f.Add(faults.Fault{Op: faults.Create, Prefix: "packs/", Nth: 2, After: io.ErrUnexpectedEOF})
//	f.CrashAfter(5)
//	… the code under test works with f …
//	f.Log()   // golden text: one line an operation
//
// A crash is an instant between two changes of the store: CrashAfter(n) lets n
// creations and deletions through, and fails everything from then on, reads too.
// The test then goes on with the store inside, as a process started later does:
//
//	for n := 0; ; n++ {
//		m := mem.New()
//		f := faults.New(m)
//		f.CrashAfter(n)
//		err := run(f)
//		check(m)
//		if !f.Crashed() {
//			break
//		}
//	}
package faults
