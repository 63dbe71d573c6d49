// Package s3test starts a real S3 server for tests: versitygw over TLS, as a
// process of its own, on a loopback port, with its objects in the test's temporary
// folder and a certificate authority that nobody else has.
//
//	server := s3test.Start(t)          // killed when the test ends
//	server.Stop(t); server.Restart(t)  // an outage, on the same port
//	proxy := server.Proxy(t)           // to cut connections at a given byte
//	s3test.StartWith(t, s3test.Options{Locks: true, Users: true})
//
// The server is built by
//
//	GOBIN=$PWD/.cache/bin go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
//
// in the folder of go.mod, which is what `make setup` does, and takes some two
// minutes on two cores. $LULL_VERSITYGW names another binary. Without one the test
// fails; it does not skip.
package s3test
