// Only the gate checks and releases.
package main

import "sealkeeper/release"

func main() {
	_ = &release.Checked{raw: nil}     // want: cannot refer to unexported field raw in struct literal of type release.Checked
	_ = &release.Released{answer: nil} // want: cannot refer to unexported field answer in struct literal of type release.Released
	var c release.Checked
	c.raw = [][]byte{make([]byte, 64)} // want: c.raw undefined (type release.Checked has no field or method raw, but does have method Raw)
	var r release.Released
	r.answer = []byte("a credential") // want: r.answer undefined (cannot refer to unexported field answer)
}
