package api

import (
	"regexp"
	"strconv"
)

// form is what the contract's patterns say: so many characters, each one of a class, the first perhaps of a smaller one. A request meets up to
// nine of them, and an engine for all regular expressions takes a microsecond for each.
type form struct {
	first, rest [256]bool
	least, most int
}

var shape = regexp.MustCompile(`^\^(\[[^]]+\])(\[[^]]+\])?\{(\d+)(?:,(\d+))?\}\$$`)

func formOf(pattern string) *form {
	m := shape.FindStringSubmatch(pattern)
	if m == nil {
		panic("a pattern of another shape: " + pattern)
	}
	f := &form{first: class(m[1])}
	f.rest = f.first
	f.least, _ = strconv.Atoi(m[3])
	f.most = f.least
	if m[4] != "" {
		f.most, _ = strconv.Atoi(m[4])
	}
	if m[2] != "" {
		f.rest = class(m[2])
		f.least++
		f.most++
	}
	return f
}

func class(of string) (has [256]bool) {
	one := regexp.MustCompile("^" + of + "$")
	for c := range 128 {
		has[c] = one.MatchString(string(rune(c)))
	}
	return has
}

func (f *form) fits(s string) bool {
	if len(s) < f.least || len(s) > f.most || len(s) > 0 && !f.first[s[0]] {
		return false
	}
	for i := 1; i < len(s); i++ {
		if !f.rest[s[i]] {
			return false
		}
	}
	return true
}
