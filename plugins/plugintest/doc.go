// Package plugintest is the conformance kit for the authors of writer plugins, in
// any language. It starts the program as lull does and holds it to the contract:
//
//	func TestPlugin(t *testing.T) {
//		plugintest.Run(t, plugintest.Options{Path: build(t)})
//	}
//
// `lull plugin verify PATH` calls Verify: the same tests, with a report instead of
// a *testing.T.
//
// What can be asked of a plugin from outside is asked: how it starts, what it does
// with versions and fields that it does not know, whether Abort, late Thaws and
// Completes out of order leave the application running. What only its author could
// provoke is done to it from the host's side: a hang is SIGSTOP, a crash and the
// end of the host are SIGKILL (the kernel kills a plugin when its host dies), a
// call over its budget is a deadline that passes. After each of these a new start
// must bring the application back with Abort.
//
// The guest is a fake one (quiescetest.Guest) unless Options.Guest makes another.
// Whether the application holds still is seen by Options.Frozen; without it by the
// guest's file systems where the plugin freezes those, and else by nobody: then the
// plugin's own word counts.
//
// The package is part of the product, and does not import testing.
package plugintest
