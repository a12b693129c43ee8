package ledger

// Fence fences an open ledger for a reason that Open can't see: the mark on a token is ahead of what this ledger wrote down.
func (l *Ledger) Fence(reason string) *Fenced {
	f := &Fenced{Reasons: []string{reason}}
	l.fenced.Store(f)
	l.o.Metrics.Fenced.Set(1)
	return f
}
