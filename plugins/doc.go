// Package plugins runs writer plugins: programs that lull starts beside itself
// and talks to in gRPC.
//
//	p, err := plugins.Start(ctx, spec, guest, log)  // process, handshake, guest service
//	         quiesce.Do(..., Writers: {p}, ...)     // *Plugin is a quiesce.Writer
//	         p.Close()                              // process, sockets, folder are gone
//
// A plugin is not trusted. What it cannot do:
//
//   - Outlive its host. The kernel kills it when the thread that forked it dies
//     (Pdeathsig); that thread is kept by a goroutine locked to it until the
//     process has ended, since the Go runtime may end other threads earlier.
//     Folders of hosts that died are removed at the next start.
//   - See the host's environment, standard input or other plugins' sockets. Its
//     sockets lie in a folder of this one start that only this user can enter, and
//     both ends prove themselves with certificates of this start. A handshake that
//     names another address is refused.
//   - Take more time than a call's context, more memory than a message
//     (proto.MaxMessage), more log than the limits of this package. One that writes
//     without end is killed, and one that does not answer Abort twice.
//   - End its host, or hold it up, by what it prints: standard error is read here, line by
//     line and bounded. Progress in it goes to who listens to the call (quiesce.Teller).
//   - Be another program than the configured one: its SHA-256 is compared, and with
//     Spec.Guarded it is refused where others than root could replace it.
//   - Use the host's privileges, where Spec.User names a user without any.
//   - Reach into the guest beyond its grants, or freeze it when no Freeze is under
//     way: a freeze that was given up cannot come late through this package.
//
// Whatever happens to it, calls end with a typed failure; when its process is gone
// they wrap quiesce.ErrWriterGone.
package plugins
