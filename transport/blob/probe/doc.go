// Package probe finds out whether a store keeps the promises that a repository is
// built on, by asking it for them: it writes a few small objects under probe/,
// races for their names, reads, lists and deletes them.
//
//	report, err := probe.Run(ctx, store, probe.Options{})
//	report.Err()       // what is missing that nothing can do without
//	report.Warnings()  // what is missing and will be missed
//
// Each Finding names what was looked for, what was seen, and what follows when it is
// missing. A probe that finds nothing wrong proves little of a store that is wrong
// now and then; one that finds something proves it.
//
// The store is asked as it is, without the patience that decorators lend it: what
// Unwrap uncovers is what is probed. A key that may not write, as that of the restore
// role, leaves most findings Unknown; that is no error.
package probe
