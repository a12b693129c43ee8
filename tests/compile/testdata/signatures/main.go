// Only the signer makes signatures, and its pool takes nothing from outside.
package main

import "sealkeeper/signer"

func main() {
	_ = &signer.Signatures{raw: [][]byte{make([]byte, 64)}} // want: cannot refer to unexported field raw in struct literal of type signer.Signatures
	var g signer.Signatures
	g.reservation = nil // want: g.reservation undefined (cannot refer to unexported field reservation)
	var s *signer.Signer
	s.sign(nil, &g, []int{0}, nil) // want: s.sign undefined (type *signer.Signer has no field or method sign, but does have method Sign)
	_ = s.pools                    // want: s.pools undefined (cannot refer to unexported field pools)
	_ = signer.job{}               // want: name job not exported by package signer
}
