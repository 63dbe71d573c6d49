// Package s3 keeps objects in a bucket of an S3-compatible store.
//
// An object is one PUT with If-None-Match: *, so that creating is atomic and
// happens once. Its user metadata holds the creation's nonce (blob.Nonce): when the
// reply to a PUT was lost, or the next one is told that the name is taken, the nonce
// of what is there tells whether it was this creation that made it.
//
// Over TLS the payload is not signed, which spares a SHA-256 of every byte on both
// sides: TLS keeps it whole on the way, a CRC-32C in a signed header lets the store
// refuse what was damaged before or after, and what lull stores is sealed anyway.
// Over plain HTTP, which is meant for a store on the same machine or behind a
// tunnel, the payload's SHA-256 is signed, because nothing else would keep someone
// on the way from replacing it. The secret key is never sent in either.
//
// In a bucket that keeps versions the first version of an object is the true one, for
// lull writes each name once. Delete removes the version that it names, and fails
// rather than to lay a marker; Hidden finds what others have laid on top, Reveal takes
// it away. Locks are set in the PUT itself, and only ever made longer. Which store says
// what of locks is in ofLock: there are no codes for it that all of them use.
//
// Policies for users of the store, by role, are in package policy.
//
// The client library's own tries are off: package retry does that. A connection
// that moves no byte for 30 seconds is given up, so that a network that swallows
// packets is an error that can be tried again, and not a wait without end.
package s3
