package s3test

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP connections on to a server, bytes as they are, and breaks them
// when told to.
type Proxy struct {
	Endpoint string // as the server's

	target   string
	listener net.Listener
	work     sync.WaitGroup
	ended    chan struct{} // closed with the test

	mu      sync.Mutex
	conns   map[net.Conn]bool
	down    bool
	refused int           // connections that came while it was down
	held    chan struct{} // closed when bytes flow
	cut     int64         // more bytes to the server until the cut; < 0: none
	lose    int64         // more bytes to the server until a reply is lost; < 0: none
	loseAll bool          // and everything goes down then
	tripped chan struct{} // closed when the cut or the loss has happened
}

// Proxy starts a proxy in front of the server; it ends with the test.
func (s *Server) Proxy(t testing.TB) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scheme, _, _ := strings.Cut(s.Endpoint, "://")
	p := &Proxy{
		Endpoint: scheme + "://" + l.Addr().String(), target: s.addr, listener: l, ended: make(chan struct{}),
		conns: map[net.Conn]bool{}, held: make(chan struct{}), cut: -1, lose: -1,
	}
	close(p.held)
	p.work.Go(p.accept)
	t.Cleanup(func() {
		close(p.ended)
		_ = l.Close() // ends accept
		p.Down()
		p.work.Wait()
	})
	return p
}

// Down breaks all connections, and new ones as soon as they come.
func (p *Proxy) Down() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.downLocked()
}

func (p *Proxy) downLocked() {
	p.down = true
	for c := range p.conns {
		_ = c.Close() // its two copies end
	}
	p.release()
}

// Up lets new connections through again.
func (p *Proxy) Up() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.cut, p.lose = false, -1, -1
	p.release()
}

// Hold lets no byte through any more, and says nothing, until Up or Down.
func (p *Proxy) Hold() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = make(chan struct{})
}

func (p *Proxy) release() {
	select {
	case <-p.held:
	default:
		close(p.held)
	}
}

// CutAfter goes down once n more bytes went to the server; then it closes the
// channel that it returns.
func (p *Proxy) CutAfter(n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.tripped = n, make(chan struct{})
	return p.tripped
}

// CutFor is CutAfter, and Up again once that much time has passed since. A caller
// that means to wait for that waits for what goes on behind the proxy.
func (p *Proxy) CutFor(n int64, away time.Duration) {
	tripped := p.CutAfter(n)
	p.work.Go(func() {
		select {
		case <-tripped:
		case <-p.ended:
			return
		}
		back := time.NewTimer(away)
		defer back.Stop()
		select {
		case <-back.C:
			p.Up()
		case <-p.ended:
		}
	})
}

// Refused counts the connections that came while the proxy was down.
func (p *Proxy) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// LoseReplyAfter breaks the connection of the first reply that comes after n more
// bytes went to the server, in place of passing it on. The server has done what it
// was asked for by then. Other connections go on, and so does the proxy.
func (p *Proxy) LoseReplyAfter(n int64) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.tripped = n, make(chan struct{})
	return p.tripped
}

// DownOnLoss makes the proxy go down with the reply that LoseReplyAfter loses.
func (p *Proxy) DownOnLoss() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loseAll = true
}

func (p *Proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		if !p.keep(c) {
			continue
		}
		up, err := net.Dial("tcp", p.target)
		if err != nil {
			p.drop(c)
			continue
		}
		if !p.keep(up) {
			p.drop(c)
			continue
		}
		p.work.Go(func() { p.pass(up, c, p.toServer) })
		p.work.Go(func() { p.pass(c, up, p.toClient) })
	}
}

// keep notes an open connection, unless the proxy is down.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		p.refused++
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close() // twice is harmless
}

// pass copies from one connection to the other while allow says so.
func (p *Proxy) pass(to, from net.Conn, allow func(n int) bool) {
	defer p.drop(to)
	defer p.drop(from)
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			p.mu.Lock()
			held := p.held
			p.mu.Unlock()
			<-held
			if !allow(n) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (p *Proxy) toServer(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose > 0 {
		p.lose = max(0, p.lose-int64(n))
	}
	if p.cut < 0 {
		return true
	}
	if p.cut -= int64(n); p.cut > 0 {
		return true
	}
	p.cut = -1
	p.downLocked()
	close(p.tripped)
	return false
}

func (p *Proxy) toClient(int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lose != 0 {
		return true
	}
	p.lose = -1
	if p.loseAll {
		p.loseAll = false
		p.downLocked()
	}
	close(p.tripped)
	return false
}
