// Package sdk is what the author of a writer plugin imports. A plugin is a main
// function that calls Serve:
//
//	type redis struct{ guest sdk.Guest }
//
//	func (r *redis) Connect(_ context.Context, g sdk.Guest) error { r.guest = g; return nil }
//	func (r *redis) Freeze(ctx context.Context, _ sdk.Request) error { ... }
//	func (r *redis) Thaw(ctx context.Context, _ sdk.Request) (sdk.ThawResult, error) { ... }
//
//	func main() {
//		if err := sdk.Serve(&redis{}); err != nil {
//			fmt.Fprintln(os.Stderr, err)
//			os.Exit(1)
//		}
//	}
//
// Freeze and Thaw are enough. Every other call of quiesce.Writer is an optional
// interface of this package; without it the SDK does what is right for most.
//
// What a writer may rely on:
//
//   - One call at a time. Abort ends the context of the call under way, waits for
//     it, and only then reaches the writer.
//   - Every context has a deadline, and ends when lull has given up on the call.
//   - A panic fails the call, not the plugin, and its stack is logged.
//   - What it tells Log or prints, on standard output or standard error, becomes lull's
//     log, with the run's id and within limits. A flood ends the plugin.
//   - The plugin ends when lull does. SIGTERM is not for it: a service manager
//     sends it to every process, and lull thaws first.
package sdk
