// Command lull backs up virtual machines.
//
// The package has three layers. main.go reads the process's surroundings into an
// App. App.Run turns arguments into an exit code and is what end-to-end tests
// call in-process. The commands, one a file, speak only to the contracts of the
// house; wire.go alone names the implementations behind them.
//
// Rules that every command keeps:
//
//   - stdout carries the result: a table, or JSON with --json. Logs, progress
//     and errors go to stderr.
//   - An error is one line: lull: what: where: cause; hint. With --json it is an
//     object on stdout as well.
//   - The exit code follows from the error by the one table in exit.go.
//   - Text from guests, images and repositories is made printable before it
//     reaches a terminal.
//   - A cancelled context ends the work and undoes what is half done.
package main
