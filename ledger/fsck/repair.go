package fsck

import "strings"

// repairs is what a person should do about the problems of a check, by the beginning of its title. Nothing here is done by a program: what does not
// hold may be the trace of somebody who wanted it so.
var repairs = []struct{ title, do string }{
	{"every step of a key's life", "keep this ledger as evidence, and compare it with the newest backup and an auditor's copy of the head. For a key that nobody allowed, or that is another than its history says: " +
		"sealctl propose key.compromise key=ID, then key.destroy. For two active keys: sealctl propose key.deactivate key=ID of the one that sealctl keys shows as the older"},
	{"what became of keys", "ask the officers who are named whether they signed it. If they did not: sealctl propose issuing.stop, then key.compromise for the key, and officers.change if one of their keys is lost"},
	{"what officers decided", "ask the officers who are named; compare the journal with an auditor's copy"},
	{"journal without gaps", "the file was changed outside the appliance: restore the newest backup (docs/operator.md, Backup and restore), and keep this one as evidence"},
}

const elsewise = "restore the newest backup to another place, run fsck there, and compare (docs/runbooks/fsck-problems.md)"

// Repair proposes what to do, one line for each check that failed.
func (r *Report) Repair() (out []string) {
	for _, c := range r.Checks {
		if len(c.Problems) == 0 {
			continue
		}
		do := elsewise
		for _, p := range repairs {
			if strings.HasPrefix(c.Title, p.title) {
				do = p.do
			}
		}
		out = append(out, c.Invariant+" "+c.Title+": "+do)
	}
	return out
}
