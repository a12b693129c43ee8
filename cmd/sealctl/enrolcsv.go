package main

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"sealkeeper/policy"
)

// maxEnrolFile bounds a file of clients: 10,000 lines with the longest values of each column.
const maxEnrolFile = 4 << 20

// maxEnrolLine bounds a line, with the longest values of each column, and room.
const maxEnrolLine = 1 << 10

// mostMistakes are named one by one.
const mostMistakes = 20

// enrolColumns are the columns that a file of clients may have; it has the first.
var enrolColumns = []string{"client", "role", "channel", "office", "district", "carrier", "life"}

// rows reads a file of clients, line by line. A row is called with its line and the value of each column; what it returns is that line's mistake.
func rows(data []byte, header func(columns []string) error, row func(line int, record []string) error) error {
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		return errors.New("line 1: the file begins with a byte order mark: save it as UTF-8 without one")
	}
	// Before anything is taken apart: a line costs what a line of a client may, and each stands for itself.
	for line, rest, n := []byte(nil), data, 1; len(rest) > 0; n++ {
		switch line, rest, _ = bytes.Cut(rest, []byte("\n")); {
		case len(line) > maxEnrolLine:
			return fmt.Errorf("line %d: it has more than %d bytes", n, maxEnrolLine)
		case !utf8.Valid(line):
			return fmt.Errorf("line %d: this is not UTF-8", n)
		case bytes.Count(line, []byte(`"`))%2 != 0:
			return fmt.Errorf("line %d: a quote is not ended in its line", n)
		}
	}
	r := csv.NewReader(bytes.NewReader(data))
	r.ReuseRecord = true
	columns, err := r.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("line 1: the file is empty")
	}
	if err != nil {
		return place(err)
	}
	for i, name := range columns {
		switch {
		case !slices.Contains(enrolColumns, name):
			return fmt.Errorf("line 1: there is no column %.40q: use %s", name, strings.Join(enrolColumns, ", "))
		case slices.Contains(columns[:i], name):
			return fmt.Errorf("line 1: column %s is there twice", name)
		}
	}
	if !slices.Contains(columns, enrolColumns[0]) {
		return errors.New("line 1: the header has no column client")
	}
	if header != nil {
		if err := header(columns); err != nil {
			return fmt.Errorf("line 1: %w", err)
		}
	}
	columns = slices.Clone(columns)
	values := make([]string, len(enrolColumns))
	at := make([]int, len(columns))
	for i, name := range columns {
		at[i] = slices.Index(enrolColumns, name)
	}
	var wrong []string
	n := 0
	for {
		record, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // what follows can't be told apart any more
			wrong = append(wrong, place(err).Error())
			break
		}
		line, _ := r.FieldPos(0)
		if n++; n > policy.MaxEnrolments {
			wrong = append(wrong, fmt.Sprintf("line %d: one approval is for at most %d clients: use several files", line, policy.MaxEnrolments))
			break
		}
		for i, v := range record {
			values[at[i]] = v
		}
		if err := row(line, values); err != nil {
			if wrong = append(wrong, fmt.Sprintf("line %d: %s", line, err)); len(wrong) == mostMistakes {
				wrong = append(wrong, "what follows was not read")
				break
			}
		}
	}
	switch {
	case len(wrong) > 0:
		return errors.New(strings.Join(wrong, "\n  "))
	case n == 0:
		return errors.New("line 2: there is no client")
	}
	return nil
}

// place is an error of the CSV reader with its line.
func place(err error) error {
	var p *csv.ParseError
	if errors.As(err, &p) {
		return fmt.Errorf("line %d: %w", p.Line, p.Err)
	}
	return err
}

// taken refuses an id that stands in a line before.
type taken map[string]int

func (t taken) add(line int, id string) error {
	if first, twice := t[id]; twice {
		return fmt.Errorf("client %.64s stands in line %d already", id, first)
	}
	t[id] = line
	return nil
}

// parseEnrolments reads a file of clients to enrol. common is what all of them have in columns that the file has not; what was given there and stands in the
// file as well is refused, since one of the two would be lost.
func parseEnrolments(data []byte, common policy.Enrolment, given map[string]bool) ([]policy.Enrolment, error) {
	var all []policy.Enrolment
	seen, has := taken{}, map[string]bool{}
	err := rows(data, func(columns []string) error {
		for _, name := range columns {
			if has[name] = true; given[name] {
				return fmt.Errorf("%s is a column, and is given for all clients too: leave one of them out", name)
			}
		}
		return nil
	}, func(line int, v []string) error {
		e := common
		e.ID = strings.Clone(v[0])
		for i, to := range []*string{&e.Role, &e.Channel, &e.Office, &e.District, &e.Carrier} {
			if has[enrolColumns[i+1]] {
				*to = v[i+1]
			}
		}
		if has["life"] {
			life, err := time.ParseDuration(v[6])
			if err != nil || life%time.Second != 0 {
				return fmt.Errorf("life %.20q is no time in whole seconds: write 24h or 30m", v[6])
			}
			e.Life = int64(life / time.Second)
		}
		if err := e.Check(); err != nil {
			return err
		}
		if err := seen.add(line, e.ID); err != nil {
			return err
		}
		all = append(all, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// parseClients reads the ids alone, of clients to revoke.
func parseClients(data []byte) ([]string, error) {
	var ids []string
	seen := taken{}
	err := rows(data, nil, func(line int, v []string) error {
		if e := (policy.Enrolment{ID: v[0], Role: "issuance", Life: 3600}); e.Check() != nil {
			return fmt.Errorf("client %.70q is not an id", v[0])
		}
		ids = append(ids, strings.Clone(v[0]))
		return seen.add(line, v[0])
	})
	if err != nil {
		return nil, err
	}
	return ids, nil
}
