package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	_ "time/tzdata" // for CRON_TZ on hosts without time zones
)

// garbage is how much the heap may grow over what is in use before it is
// collected, in percent. Nearly all of lull's heap is a few large buffers that it
// uses again and again: collecting costs next to nothing, and the memory of a run
// stays well below 256 MiB. $GOGC is not asked.
const garbage = 40

func main() { os.Exit(serve(processApp())) }

// serve leaves every decision to App.Run. The signals stay caught until it
// returns: a second one must not end the process in the middle of a merge.
func serve(app *App) (code int) {
	debug.SetGCPercent(garbage)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return app.Run(ctx, os.Args[1:])
}
