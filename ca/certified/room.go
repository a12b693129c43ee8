package certified

import "sync"

// Room is memory that one draft after the other is put together in. What a draft keeps is copied out of it: Leave clears it, because it holds
// what people's cards say, and another draft gets it.
type Room struct {
	Parts [4][]byte // empty at first, to be appended to
}

var rooms = sync.Pool{New: func() any { return new(Room) }}

// largestKept of one part: a card with a small portrait.
const largestKept = 16 << 10

// TakeRoom is followed by Leave.
func TakeRoom() *Room { return rooms.Get().(*Room) }

// Leave ends the use of all parts.
func (r *Room) Leave() {
	for i, b := range r.Parts {
		if cap(b) > largestKept {
			b = nil
		}
		clear(b[:cap(b)])
		r.Parts[i] = b[:0]
	}
	rooms.Put(r)
}
