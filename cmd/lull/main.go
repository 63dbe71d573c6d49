package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// main leaves every decision to App.Run. The signals stay caught until it
// returns: a second one must not end the process in the middle of a merge.
func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := processApp().Run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
