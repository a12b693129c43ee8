// Nobody but a Decide function approves, and an approval can't be changed.
package main

import "sealkeeper/policy"

func main() {
	_ = &policy.Approval{kind: policy.KindSelftest} // want: cannot refer to unexported field kind in struct literal of type policy.Approval
	var a policy.Approval
	a.decision = policy.Decision{Result: policy.Allowed} // want: a.decision undefined (type policy.Approval has no field or method decision, but does have method Decision)
	a.purposes = []policy.Purpose{policy.PurposeIACA}    // want: a.purposes undefined (cannot refer to unexported field purposes)
}
