package lambdahost

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/domainferry/domainferry/internal/fault"
)

// decode fills target from payload. encoding/json alone names neither the path of an unknown field nor more than the first
// problem, and matches names without regard to case, so a check against target's type goes first.
func decode(payload []byte, target any) error {
	invalid := func(format string, args ...any) error {
		return fault.Newf(fault.InvalidInput, "decode the event", "", format, args...)
	}
	if len(bytes.TrimSpace(payload)) == 0 {
		return invalid("it is empty, a JSON object is wanted")
	}
	var whole json.RawMessage
	if err := json.Unmarshal(payload, &whole); err != nil {
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			return invalid("it is not JSON at byte %d: %w", syntax.Offset, err)
		}
		return invalid("it is not JSON: %w", err)
	}
	var c checker
	c.check(bytes.TrimSpace(whole), reflect.TypeOf(target).Elem(), "$")
	if len(c.problems) > 0 {
		return invalid("%w", errors.Join(c.problems...))
	}
	if err := json.Unmarshal(payload, target); err != nil {
		return invalid("%w", err)
	}
	return nil
}

type checker struct {
	problems []error
	fields   map[reflect.Type]map[string]reflect.Type // of the structs met so far: they cost more than checking an item against them
}

// maxProblems is more than anybody reads; an event that is wrong everywhere must not fill the memory with what is wrong with it.
const maxProblems = 100

func (c *checker) report(path, format string, args ...any) {
	if len(c.problems) == maxProblems {
		c.problems = append(c.problems, errors.New("and more"))
	}
	if len(c.problems) > maxProblems {
		return
	}
	c.problems = append(c.problems, fmt.Errorf("%s: %w", path, fmt.Errorf(format, args...)))
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// check reports every place in raw (valid JSON without surrounding space) that t does not describe.
func (c *checker) check(raw []byte, t reflect.Type, path string) {
	if string(raw) == "null" || len(c.problems) > maxProblems {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pointer := reflect.PointerTo(t)
	switch {
	case pointer.Implements(jsonUnmarshaler):
		// The type knows its own form; its error text is for operators.
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			c.report(path, "%w", err)
		}
	case pointer.Implements(textUnmarshaler):
		if raw[0] != '"' {
			c.report(path, "is %s, a string is wanted", kindOf(raw))
		} else if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			c.report(path, "%w", err)
		}
	case t.Kind() == reflect.Interface:
	case t.Kind() == reflect.Struct:
		fields, ok := c.fields[t]
		if !ok {
			fields = fieldsOf(t)
			if c.fields == nil {
				c.fields = map[reflect.Type]map[string]reflect.Type{}
			}
			c.fields[t] = fields
		}
		c.object(raw, path, func(name string, value []byte) {
			if field, ok := fields[name]; ok {
				c.check(value, field, member(path, name))
			} else {
				c.report(member(path, name), "is not known; known here: %s", strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
			}
		})
	case t.Kind() == reflect.Map:
		c.object(raw, path, func(name string, value []byte) { c.check(value, t.Elem(), member(path, name)) })
	case t.Kind() == reflect.Array, t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8:
		var items []json.RawMessage
		if json.Unmarshal(raw, &items) != nil {
			c.report(path, "is %s, an array is wanted", kindOf(raw))
		}
		for i, item := range items {
			c.check(item, t.Elem(), path+"["+strconv.Itoa(i)+"]")
		}
	default:
		if json.Unmarshal(raw, reflect.New(t).Interface()) != nil {
			c.report(path, "is %s, %s is wanted", kindOf(raw), wanted(t))
		}
	}
}

// object calls visit for each member of raw in its order, and reports a member that comes twice: which one counts would be a guess.
func (c *checker) object(raw []byte, path string, visit func(name string, value []byte)) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if open, err := decoder.Token(); err != nil || open != json.Delim('{') {
		c.report(path, "is %s, an object is wanted", kindOf(raw))
		return
	}
	seen := map[string]bool{}
	for decoder.More() && len(c.problems) <= maxProblems {
		token, err := decoder.Token()
		name, ok := token.(string)
		var value json.RawMessage
		if err == nil && ok {
			err = decoder.Decode(&value)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			c.report(path, "%w", err)
			return
		}
		if seen[name] {
			c.report(member(path, name), "is given twice")
			continue
		}
		seen[name] = true
		visit(name, bytes.TrimSpace(value))
	}
}

// fieldsOf returns the JSON names of t's fields, with those that anonymous structs lend.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	var named [][]int // anonymous fields with a JSON name of their own lend nothing
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if slices.ContainsFunc(named, func(outer []int) bool {
			return len(f.Index) > len(outer) && slices.Equal(f.Index[:len(outer)], outer)
		}) {
			continue
		}
		if f.Anonymous && name == "" && isStruct(f.Type) {
			continue
		}
		if f.Anonymous {
			named = append(named, f.Index)
		}
		if !f.IsExported() || f.Tag.Get("json") == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields
}

func isStruct(t reflect.Type) bool {
	return t.Kind() == reflect.Struct || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func member(path, name string) string {
	if plainName.MatchString(name) {
		return path + "." + name
	}
	return path + "[" + strconv.Quote(name) + "]"
}

// kindOf names the JSON type of raw without quoting it: a secret pasted into the wrong field must not end up in a log.
func kindOf(raw []byte) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case '"':
		return "a string"
	case 't', 'f':
		return "a boolean"
	}
	if bytes.ContainsAny(raw, ".eE") {
		return "a number with a fraction or exponent"
	}
	return "a number"
}

func wanted(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "a boolean"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return fmt.Sprintf("a whole number of %d bits", t.Bits())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprintf("a whole number of %d bits, not negative,", t.Bits())
	case reflect.Slice:
		return "a string in base64"
	}
	return "a value of Go type " + t.String()
}
