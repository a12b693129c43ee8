package client

import (
	"context"
	"time"
)

// Waiting replaces the waits between tries.
func Waiting(c *Client, w func(context.Context, time.Duration) error) { c.wait = w }

// NoWaiting makes tries follow at once.
func NoWaiting(c *Client) {
	Waiting(c, func(ctx context.Context, _ time.Duration) error { return ctx.Err() })
}

// Retryable asks about a try that ended with err and without an answer.
func Retryable(err error, onlyOnce bool) bool {
	_, again := retryable(&lost{err}, onlyOnce)
	return again
}
