// A look-alike is not the thing.
package main

import (
	"sealkeeper/policy"
	"sealkeeper/release"
)

type lookalike struct {
	raw [][]byte
}

func main() {
	_ = (*release.Checked)(&lookalike{})       // want: cannot convert &lookalike{} (value of type *lookalike) to type *release.Checked
	_ = (*policy.Approval)(&policy.Decision{}) // want: cannot convert &policy.Decision{} (value of type *policy.Decision) to type *policy.Approval
}
