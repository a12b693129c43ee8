package api

import (
	"bytes"
	"net/http"
	"sync"
)

// An issue's answer is longer than what net/http gathers for a connection, so it would leave in two pieces, each with a call to the system and a
// client that wakes up for half an answer. So its connection gathers them, below TLS, from the moment at which the answer is written until the
// exchange ends: what is encrypted already, and no more than this.
const mostGathered = 64 << 10

var pieces = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// whole writes a body that is there as a whole. The rest of the exchange is short.
func (x *exchange) whole(body []byte) {
	if x.conn != nil {
		x.conn.gather()
		x.gathers = true
	}
	_, _ = x.Write(body) // a client that is gone asks again with the same key
}

// sent is the last thing of an exchange.
func (x *exchange) sent() {
	if x.gathers {
		_ = http.NewResponseController(x.ResponseWriter).Flush()
		x.conn.send()
	}
}

// gather keeps what is written to the connection until send.
func (c *boundConn) gather() {
	c.out.Lock()
	defer c.out.Unlock()
	c.gathered = pieces.Get().(*bytes.Buffer)
}

func (c *boundConn) send() {
	c.out.Lock()
	room := c.gathered
	c.gathered = nil
	_, err := room.WriteTo(c.Conn)
	c.out.Unlock()
	if err != nil { // who wrote it was told that it is under way
		c.Close()
	}
	room.Reset()
	pieces.Put(room)
}

// Write gathers if that is asked for. TLS has one writer at a time, but an alert of it may come from any goroutine.
func (c *boundConn) Write(b []byte) (int, error) {
	c.out.Lock()
	defer c.out.Unlock()
	if c.gathered == nil {
		return c.Conn.Write(b)
	}
	if c.gathered.Len()+len(b) > mostGathered {
		if _, err := c.gathered.WriteTo(c.Conn); err != nil {
			return 0, err
		}
		return c.Conn.Write(b)
	}
	return c.gathered.Write(b)
}
