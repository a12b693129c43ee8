package contract

import (
	"errors"

	"github.com/go-json-experiment/json/jsontext"
)

// File is the text of a file: a JSON string, of up to a MiB. It is decoded in one copy, where a string would take two.
type File []byte

// UnmarshalJSONFrom takes a JSON string.
func (f *File) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	v, err := d.ReadValue()
	if err != nil {
		return err
	}
	if v.Kind() != '"' {
		return errors.New("the text of a file is a string")
	}
	*f, err = jsontext.AppendUnquote(make([]byte, 0, len(v)), v)
	return err
}

// MarshalText and UnmarshalText make it a string for other encoders.
func (f File) MarshalText() ([]byte, error) { return f, nil }

// UnmarshalText takes the string's content.
func (f *File) UnmarshalText(text []byte) error {
	*f = append((*f)[:0], text...)
	return nil
}
