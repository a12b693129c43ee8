package api

import (
	"strconv"
	"strings"
)

// Content negotiation by RFC 9110, 12.4.2, 12.5.1 and 12.5.3. A malformed element is skipped; a field of which nothing is left counts as
// absent, since a verifier that can't spell its preferences is better served than refused.

// weighted is one element of an Accept or Accept-Encoding field.
type weighted struct {
	value  string // lower case, without parameters
	params bool   // it has parameters other than q
	q      int    // thousandths
}

// maxElements bounds the work for one header field; the rest is not read.
const maxElements = 64

func elements(fields []string) []weighted {
	var out []weighted
	for _, part := range strings.SplitN(strings.Join(fields, ","), ",", maxElements+1) {
		if len(out) == maxElements {
			break
		}
		value, rest, _ := strings.Cut(part, ";")
		w := weighted{value: strings.ToLower(strings.Trim(value, " \t")), q: 1000}
		ok := w.value != ""
		for rest != "" && ok {
			var param string
			param, rest, _ = strings.Cut(rest, ";")
			name, val, has := strings.Cut(strings.Trim(param, " \t"), "=")
			if !strings.EqualFold(name, "q") {
				w.params = true
				continue
			}
			if w.q, ok = weight(val); !has {
				ok = false
			}
			break // what follows the weight belongs to no media type
		}
		if ok {
			out = append(out, w)
		}
	}
	return out
}

// weight reads a qvalue: 0 to 1 with at most three decimals.
func weight(s string) (thousandths int, ok bool) {
	whole, dec, _ := strings.Cut(s, ".")
	if whole != "0" && whole != "1" || len(dec) > 3 {
		return 0, false
	}
	n, err := strconv.ParseUint(whole+(dec + "000")[:3], 10, 16)
	if err != nil || n > 1000 {
		return 0, false
	}
	return int(n), true
}

// accepts reports whether a representation of this media type (lower case, without parameters) may be sent. The most specific range
// decides.
func accepts(fields []string, media string) bool {
	kind, _, _ := strings.Cut(media, "/")
	best, q, any := -1, 0, false
	for _, e := range elements(fields) {
		if !strings.Contains(e.value, "/") {
			continue // not a media range
		}
		any = true
		specific := -1
		switch {
		case e.params: // asks for a variant that there is not
		case e.value == media:
			specific = 2
		case e.value == kind+"/*":
			specific = 1
		case e.value == "*/*":
			specific = 0
		}
		if specific > best || specific == best && specific >= 0 && e.q > q {
			best, q = specific, e.q
		}
	}
	return !any || q > 0
}

// coding chooses between gzip (if there is a gzip form) and identity; ok is false if neither is acceptable.
func coding(fields []string, hasGzip bool) (gzip, ok bool) {
	zip, identity, star := -1, -1, -1
	for _, e := range elements(fields) {
		switch e.value {
		case "gzip", "x-gzip":
			zip = max(zip, e.q)
		case "identity":
			identity = max(identity, e.q)
		case "*":
			star = max(star, e.q)
		}
	}
	if zip < 0 {
		zip = max(star, 0) // not named: the wildcard's weight, or not wanted
	}
	plain := identity != 0 && !(identity < 0 && star == 0) // acceptable unless excluded
	if hasGzip && zip > 0 && zip >= identity {
		return true, true
	}
	return false, plain
}
