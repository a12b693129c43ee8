package api

import (
	"bytes"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// connections bounds the open connections of one listener (F24, F38). When it is full, one is closed for the new one: of those that have not sent a whole
// header yet the oldest, if they are an eighth of all or more. Else it is one of the client that holds the most: the one that has been idle longest, or whose
// body or answer has been on its way or whose refusal has been waiting longest. So who only holds connections loses them to who uses them, and a carrier gets in however
// many an issuance service has opened, and however fast others knock. If the appliance works on every one, the new one is closed.
type connections struct {
	net.Listener
	most           int
	opened, closed func()
	evicted        func()
	asked          chan chan struct{} // Pulse: somebody waits for the accepting goroutine

	mu      sync.Mutex
	waiting [3]*list.List  // of *boundConn, the oldest first: without a request yet; idle between requests; sending a body, waiting for a refusal or being sent an answer
	held    map[string]int // open connections by client; "": not known yet, or no TLS
	open    int
}

type boundConn struct {
	net.Conn
	of    *connections
	once  sync.Once
	place *list.Element // nil: at work
	queue int
	owner string
	known bool // the owner was looked for
	gone  bool

	out      sync.Mutex
	gathered *bytes.Buffer // nil: what is written goes out at once
}

type connectionKey struct{}

// connectionOf is the bounded connection of a request, or nil.
func connectionOf(ctx context.Context) *boundConn {
	c, _ := ctx.Value(connectionKey{}).(*boundConn)
	return c
}

// working takes a connection out of the queues: its request is all there, and closing it now would lose an answer.
func (c *boundConn) working() {
	if c != nil {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		c.wait(nil, 0)
	}
}

// answering puts it back: from now on its client alone says how long it takes. One that does not read loses it to who comes.
func (c *boundConn) answering() {
	if c != nil {
		c.of.mu.Lock()
		defer c.of.mu.Unlock()
		if !c.gone {
			c.wait(c.of.waiting[2], 2)
		}
	}
}

// Bound wraps a listener of one of the edge's servers, before it is served. Most is the number of its connections.
func (e *Edge) Bound(name string, l net.Listener, s *http.Server, most int) net.Listener {
	open, evicted := e.o.Metrics.Connections.WithLabelValues(name), e.o.Metrics.Evicted.WithLabelValues(name)
	b := &connections{Listener: l, most: most, opened: open.Inc, closed: open.Dec, evicted: evicted.Inc, waiting: [3]*list.List{list.New(), list.New(), list.New()}, held: map[string]int{},
		asked: make(chan chan struct{}, 1)}
	bound := func(c net.Conn) (*boundConn, string) {
		owner := ""
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
			if b, ok := c.(*boundConn); ok && !b.known {
				if cs := t.ConnectionState(); cs.HandshakeComplete && len(cs.PeerCertificates) > 0 {
					b.known, owner = true, cs.PeerCertificates[0].Subject.String() // a name for counting, not an identity
				}
			}
		}
		out, _ := c.(*boundConn)
		return out, owner
	}
	s.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateNew {
			return // and there was no handshake to look at
		}
		if c, owner := bound(c); c != nil {
			b.moved(c, state, owner)
		}
	}
	s.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		return context.WithValue(ctx, connectionKey{}, c)
	}
	s.RegisterOnShutdown(b.dismiss)
	return b
}

// grace is how long a connection that has sent no request may keep a shutdown waiting for it.
const grace = 250 * time.Millisecond

// dismiss closes, a moment after the shutdown began, connections that never sent a request. http.Server.Shutdown would wait 5 s for them, and
// nothing listens meanwhile. It runs in a goroutine of the server and ends by itself.
func (b *connections) dismiss() {
	time.Sleep(grace)
	for {
		b.mu.Lock()
		e := b.waiting[0].Front()
		b.mu.Unlock()
		if e == nil {
			return
		}
		e.Value.(*boundConn).Close()
	}
}

// Pulse shows that a listener from Bound is served: the goroutine that accepts its connections answers. It is woken by a deadline that has
// passed, since the sandbox lets nobody connect to it from inside. A listener that was closed has nobody to answer, and that is no error:
// its server ended by itself or was shut down, which is noticed elsewhere.
func Pulse(ctx context.Context, l net.Listener) error {
	b, ok := l.(*connections)
	if !ok {
		return errors.New("not a listener from Bound")
	}
	wakes, ok := b.Listener.(interface{ SetDeadline(time.Time) error })
	if !ok {
		return errors.New("this kind of listener has no deadline")
	}
	wake := func() error { return wakes.SetDeadline(time.Unix(1, 0)) }
	late := func() error {
		if errors.Is(wake(), net.ErrClosed) {
			return nil
		}
		return ctx.Err()
	}
	answered := make(chan struct{})
	select {
	case b.asked <- answered:
	case <-ctx.Done(): // the one before was not answered either
		return late()
	}
	if err := wake(); errors.Is(err, net.ErrClosed) {
		select {
		case <-b.asked: // nobody will answer
		default:
		}
		return nil
	} else if err != nil {
		return err
	}
	select {
	case <-answered:
		return nil
	case <-ctx.Done():
		return late()
	}
}

// answer tells who asked that this goroutine is here, and that the lock is free. The deadline goes first: who asks from now on sets it again.
func (b *connections) answer() error {
	if err := b.Listener.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Time{}); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		select {
		case answered := <-b.asked:
			close(answered)
		default:
			return nil
		}
	}
}

func (b *connections) Accept() (net.Conn, error) {
	for {
		raw, err := b.Listener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) { // Pulse
			err = b.answer()
			if err == nil {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		c := &boundConn{Conn: raw, of: b}
		b.mu.Lock()
		var victim *boundConn
		if b.open >= b.most {
			if victim = b.victim(); victim == nil {
				victim = c
			} else {
				victim.wait(nil, 0)
			}
		}
		if victim != c {
			b.open++
			b.held[""]++
			c.wait(b.waiting[0], 0)
			b.opened()
		}
		b.mu.Unlock()
		if victim != nil {
			b.evicted()
		}
		if victim == c {
			raw.Close()
			continue
		}
		if victim != nil {
			victim.Close()
		}
		return c, nil
	}
}

// victim is the connection that a new one may replace. The caller holds mu. Few that are new are in the middle of their handshakes, which takes some ms: were they
// closed first, a listener that somebody fills would let nobody in any more.
func (b *connections) victim() (v *boundConn) {
	e := b.waiting[0].Front()
	if e != nil && b.waiting[0].Len() >= max(1, b.most/8) {
		return e.Value.(*boundConn)
	}
	for _, q := range b.waiting[1:] {
		for e := q.Front(); e != nil; e = e.Next() {
			if c := e.Value.(*boundConn); v == nil || b.held[c.owner] > b.held[v.owner] {
				v = c
			}
		}
	}
	if v == nil && e != nil {
		return e.Value.(*boundConn)
	}
	return v
}

// belongs counts a connection to its client. The caller holds mu.
func (c *boundConn) belongs(owner string) {
	if c.of.held[c.owner]--; c.of.held[c.owner] == 0 {
		delete(c.of.held, c.owner)
	}
	c.owner = owner
	c.of.held[owner]++
}

// wait moves a connection to the end of a queue, or to none. The caller holds mu.
func (c *boundConn) wait(q *list.List, n int) {
	if c.place != nil {
		c.of.waiting[c.queue].Remove(c.place)
		c.place = nil
	}
	if q != nil {
		c.place, c.queue = q.PushBack(c), n
	}
}

func (b *connections) moved(c *boundConn, state http.ConnState, owner string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c.gone {
		return
	}
	if owner != "" {
		c.belongs(owner)
	}
	switch state {
	case http.StateActive:
		c.wait(b.waiting[2], 2)
	case http.StateClosed, http.StateHijacked:
		c.wait(nil, 0)
	case http.StateIdle:
		c.wait(b.waiting[1], 1)
	}
}

func (c *boundConn) Close() error {
	c.once.Do(func() {
		c.of.mu.Lock()
		c.wait(nil, 0)
		c.gone = true
		if c.of.held[c.owner]--; c.of.held[c.owner] == 0 {
			delete(c.of.held, c.owner)
		}
		c.of.open--
		c.of.mu.Unlock()
		c.of.closed()
	})
	return c.Conn.Close()
}
