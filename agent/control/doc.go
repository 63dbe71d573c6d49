// Package control is the socket of the running agent: HTTP with JSON over a Unix
// socket, for the commands on the same host.
//
//	GET /v1/status -> Status
//
// Who may ask: the user that the agent runs as, and root. The socket has mode
// 0600, and the kernel's word on the peer is checked besides, because a folder
// may be moved and a mode changed.
//
// One agent a socket: it holds flock on the file PATH.lock while it lives. So a
// socket that a dead agent left is told from a live one without asking it, and
// two agents that start at once cannot both win. The lock file stays.
//
// Invariants:
//
//   - A client's request is bounded in size and time; so is the answer.
//   - Serve returns when every request has ended, and the socket is gone.
package control
