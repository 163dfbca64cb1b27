package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// span is where a value stands in a document.
type span struct{ start, end int }

func (s span) of(document []byte) []byte { return document[s.start:s.end] }

// member is a field of an object.
type member struct {
	name string
	span
}

// members finds the fields of the object that the text is. A name that is there twice is refused: which one counts is anybody's guess.
func members(document []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	var list []member
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if seen[name] {
			return nil, fmt.Errorf("it has %q twice", excerpt(name, 80))
		}
		seen[name] = true
		s, err := value(d)
		if err != nil {
			return nil, err
		}
		list = append(list, member{name, s})
	}
	return list, ended(d)
}

// elements finds the elements of the array that the text is.
func elements(document []byte) ([]span, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, errors.New("it is not a JSON array")
	}
	var list []span
	for d.More() {
		s, err := value(d)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, ended(d)
}

func value(d *json.Decoder) (span, error) {
	var raw json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return span{}, err
	}
	end := int(d.InputOffset())
	return span{end - len(raw), end}, nil
}

func ended(d *json.Decoder) error {
	if _, err := d.Token(); err != nil { // the closing bracket
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("it has text after the document")
	}
	return nil
}

// text reads a string; "" when it is none.
func text(raw []byte) string {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
