package client

import (
	"context"
	"net/http"
	"time"
)

// Waiting replaces the waits between tries.
func Waiting(c *Client, w func(context.Context, time.Duration) error) { c.wait = w }

// NoWaiting makes tries follow at once.
func NoWaiting(c *Client) {
	Waiting(c, func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
}

// IdentityWaiting replaces the waits between an identity's renewals.
func IdentityWaiting(i *Identity, w func(context.Context, time.Duration) error) { i.wait = w }

// Late brings the client what the identity is now when the function that it returns is called, as a request does that was held up.
func Late(c *Client) func() {
	now := c.config.Identity.now.Load()
	return func() { c.reconnect(now) }
}

// Shown is the certificate that new connections show, if nobody asks the identity again.
func Shown(c *Client) []byte {
	t := c.http.Load().Transport.(*http.Transport)
	cert, err := t.TLSClientConfig.GetClientCertificate(nil)
	if err != nil {
		return nil
	}
	return cert.Certificate[0]
}

// Retryable asks about a try that ended with err and without an answer.
func Retryable(err error, onlyOnce bool) bool {
	_, again := retryable(&lost{err}, onlyOnce)
	return again
}
