package ca

import "testing"

// Whatever changes all the time, and however long a version takes: each list that waits has its turn, and those that nobody waits for take no place of those that
// somebody does.
func TestEveryListHasItsTurn(t *testing.T) {
	var row lineup
	places := map[bool]int{false: 1, true: 2}
	lists := []string{"a", "b", "c", "d", "e"}
	busy, begun := map[string]int{}, map[string]int{}
	for tick := range 100 {
		due := map[string]bool{}
		for _, id := range lists {
			switch left := busy[id]; {
			case left == 2: // its version is out, and it rests
				places[id != "e"]++
				fallthrough
			case left > 0:
				busy[id]--
			default:
				due[id] = id != "e"
			}
		}
		row.join(due)
		for id, urgent := range row.take(places) {
			if urgent != (id != "e") {
				t.Fatalf("list %s is taken for one with urgent %v", id, urgent)
			}
			busy[id], begun[id] = 3+tick%2, begun[id]+1
		}
		if places[true] < 0 || places[false] < 0 {
			t.Fatalf("places %v", places)
		}
	}
	for _, id := range lists {
		if begun[id] < 20 {
			t.Errorf("in 100 ticks list %s was begun %d times; all: %v", id, begun[id], begun)
		}
	}
}
