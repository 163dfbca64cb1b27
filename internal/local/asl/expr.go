package asl

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/recolabs/gnata"
)

// value is one JSON value in both forms that the engine needs: its text, for histories and size limits, and decoded for gnata.
type value struct {
	text string
	v    any
}

func parseValue(text string) (value, error) {
	if !json.Valid([]byte(text)) {
		return value{}, errors.New("not valid JSON")
	}
	v, err := gnata.DecodeJSON(json.RawMessage(text))
	return value{text: text, v: v}, err
}

func compactJSON(text []byte) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		return "", err
	}
	return b.String(), nil
}

// appendJSON writes a gnata result as JSON; what has no JSON form (undefined, functions) is an error.
func appendJSON(b []byte, v any) ([]byte, error) {
	switch t := v.(type) {
	case nil:
		return nil, errUndefined
	case bool:
		return strconv.AppendBool(b, t), nil
	case string:
		return appendString(b, t), nil
	case json.Number:
		if strings.ContainsAny(string(t), ".eE") {
			if f, err := t.Float64(); err == nil {
				return appendJSON(b, f)
			}
		}
		return append(b, t...), nil
	case float64:
		if math.IsNaN(t) || math.IsInf(t, 0) {
			return nil, errors.New("a number that JSON cannot hold")
		}
		text, err := json.Marshal(t)
		return append(b, text...), err
	case int:
		return strconv.AppendInt(b, int64(t), 10), nil
	case int64:
		return strconv.AppendInt(b, t, 10), nil
	case []any:
		b = append(b, '[')
		for i, e := range t {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendJSON(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		b = append(b, '{')
		for i, k := range slices.Sorted(maps.Keys(t)) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			var err error
			if b, err = appendJSON(b, t[k]); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case interface {
		Range(fn func(key string, val any) bool)
		Len() int
	}: // gnata's ordered object
		b = append(b, '{')
		first := true
		var err error
		t.Range(func(k string, e any) bool {
			if !first {
				b = append(b, ',')
			}
			first = false
			b = append(appendString(b, k), ':')
			b, err = appendJSON(b, e)
			return err == nil
		})
		if err != nil {
			return nil, err
		}
		return append(b, '}'), nil
	}
	if gnata.IsNull(v) {
		return append(b, "null"...), nil
	}
	switch n := gnata.NormalizeValue(v).(type) {
	case []any, map[string]any:
		return appendJSON(b, withNulls(n))
	}
	return nil, fmt.Errorf("a result of type %T, which has no JSON form", v)
}

// withNulls puts JSON nulls back where gnata, which hands normalised values to custom functions, made them nil.
func withNulls(v any) any {
	switch t := v.(type) {
	case nil:
		null, _ := gnata.DecodeJSON(json.RawMessage("null")) // valid
		return null
	case []any:
		out := make([]any, len(t))
		for i, e := range t {
			out[i] = withNulls(e)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(t))
		for k, e := range t {
			out[k] = withNulls(e)
		}
		return out
	}
	return v
}

func appendString(b []byte, s string) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte{'\n'})...)
}

func quote(s string) string { return string(appendString(nil, s)) }

var errUndefined = errors.New("returned nothing (undefined)")

// template is a JSON value of the definition in which strings {% ... %} are expressions.
type template struct {
	field   string // where in its state, as in "Arguments/Payload/name": the service names it in errors
	literal string // JSON text, when expr, keys and elems are unset
	source  string
	expr    *gnata.Expression
	object  bool
	array   bool
	keys    []string
	elems   []*template
	fixed   *value // of a whole template without expressions
}

func parseTemplate(raw json.RawMessage, path, field string) (*template, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	t, err := decodeTemplate(dec, path, field)
	if err != nil {
		return nil, err
	}
	if text, ok := t.constant(); ok {
		v, err := parseValue(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		t.fixed = &v
	}
	return t, nil
}

func decodeTemplate(dec *json.Decoder, path, field string) (*template, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t := &template{field: field}
	switch tok := tok.(type) {
	case json.Delim:
		if tok == '[' {
			t.array = true
			for i := 0; dec.More(); i++ {
				e, err := decodeTemplate(dec, fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%s[%d]", field, i))
				if err != nil {
					return nil, err
				}
				t.elems = append(t.elems, e)
			}
		} else {
			t.object = true
			for dec.More() {
				key, err := dec.Token()
				if err != nil {
					return nil, fmt.Errorf("%s: %w", path, err)
				}
				k := key.(string)
				if slices.Contains(t.keys, k) {
					return nil, fmt.Errorf("%s.%s: the field stands twice", path, k)
				}
				e, err := decodeTemplate(dec, path+"."+k, field+"/"+k)
				if err != nil {
					return nil, err
				}
				t.keys = append(t.keys, k)
				t.elems = append(t.elems, e)
			}
		}
		_, err = dec.Token()
		return t, err
	case string:
		src, isExpr := strings.CutPrefix(tok, "{%")
		if !isExpr {
			if strings.HasSuffix(tok, "%}") {
				return nil, fmt.Errorf("%s: %q ends with %%} but does not start with {%%", path, tok)
			}
			t.literal = quote(tok)
			return t, nil
		}
		src, closed := strings.CutSuffix(src, "%}")
		if !closed {
			return nil, fmt.Errorf("%s: %q starts with {%% but does not end with %%}", path, tok)
		}
		t.source = strings.TrimSpace(src)
		if code := quoted.ReplaceAllString(t.source, ""); strings.Contains(code, "??") || strings.Contains(code, "?:") {
			// gnata knows these operators of JSONata 2.1; the service runs 2.0.6.
			return nil, fmt.Errorf("%s: %q uses an operator (?? or ?:) that JSONata 2.0.6, which the service runs, does not have", path, tok)
		}
		if t.expr, err = gnata.Compile(t.source); err != nil {
			return nil, fmt.Errorf("%s: the expression %q does not parse: %w", path, t.source, err)
		}
		return t, nil
	case json.Number:
		t.literal = tok.String()
	case bool:
		t.literal = strconv.FormatBool(tok)
	case nil:
		t.literal = "null"
	}
	return t, nil
}

var quoted = regexp.MustCompile(`"(?:[^"\\\\]|\\\\.)*"|'(?:[^'\\\\]|\\\\.)*'`)

// constant returns the value as JSON when no expression is in it.
func (t *template) constant() (string, bool) {
	if t.expr != nil {
		return "", false
	}
	for _, e := range t.elems {
		if _, ok := e.constant(); !ok {
			return "", false
		}
	}
	text, err := t.append(nil, func(*template) (any, error) { return nil, errUndefined })
	return string(text), err == nil
}

// literalString returns the text of a string without expression.
func (t *template) literalString() (s string, ok bool) {
	if t.expr != nil || t.object || t.array {
		return "", false
	}
	return s, json.Unmarshal([]byte(t.literal), &s) == nil
}

// member returns the template of one key of an object.
func (t *template) member(key string) *template {
	if i := slices.Index(t.keys, key); t.object && i >= 0 {
		return t.elems[i]
	}
	return nil
}

func (t *template) append(b []byte, eval func(*template) (any, error)) ([]byte, error) {
	switch {
	case t.expr != nil:
		v, err := eval(t)
		if err != nil {
			return nil, err
		}
		out, err := appendJSON(b, v)
		if err != nil {
			return nil, &expressionError{t, err}
		}
		return out, nil
	case t.object, t.array:
		open, end := byte('['), byte(']')
		if t.object {
			open, end = '{', '}'
		}
		b = append(b, open)
		for i, e := range t.elems {
			if i > 0 {
				b = append(b, ',')
			}
			if t.object {
				b = append(appendString(b, t.keys[i]), ':')
			}
			var err error
			if b, err = e.append(b, eval); err != nil {
				return nil, err
			}
		}
		return append(b, end), nil
	}
	return append(b, t.literal...), nil
}

type expressionError struct {
	t   *template
	err error
}

func (e *expressionError) Error() string {
	if errors.Is(e.err, errUndefined) {
		return fmt.Sprintf("The JSONata expression '%s' specified for the field '%s' returned nothing (undefined).", e.t.source, e.t.field)
	}
	return fmt.Sprintf("The JSONata expression '%s' specified for the field '%s' failed: %v", e.t.source, e.t.field, e.err)
}

// evaluate fills a template; vars are the bindings without the dollar sign, "states" among them.
func (e *Engine) evaluate(t *template, vars map[string]any) (value, error) {
	text, err := t.append(nil, func(t *template) (any, error) {
		v, err := e.expression(t.expr, vars)
		if err != nil {
			return nil, &expressionError{t, err}
		}
		if v == nil {
			return nil, &expressionError{t, errUndefined}
		}
		return v, nil
	})
	if err != nil {
		return value{}, err
	}
	v, err := gnata.DecodeJSON(text)
	return value{text: string(text), v: v}, err
}

// evaluator prepares the function that evaluates one expression. Filling an environment costs far more than copying one.
func (e *Engine) evaluator() func(*gnata.Expression, map[string]any) (any, error) {
	root := gnata.NewCustomEnv(e.extensions())
	return func(expr *gnata.Expression, vars map[string]any) (any, error) {
		env := root.Clone()
		for name, v := range vars {
			env.Bind(name, v)
		}
		return expr.EvalWithCustomFuncs(context.Background(), nil, env)
	}
}

// extensions are the functions that Step Functions adds to JSONata, and those of JSONata that it changes or that need this
// engine's clock. Source: AWS Step Functions Developer Guide, "Transforming data with JSONata in Step Functions".
func (e *Engine) extensions() map[string]gnata.CustomFunc {
	fromMillis, err := gnata.Compile(`$fromMillis(ms, picture, zone)`)
	if err != nil {
		panic(err) // a constant of this package
	}
	return map[string]gnata.CustomFunc{
		"eval": func([]any, any) (any, error) {
			return nil, errors.New("$eval is not supported by Step Functions; use $parse for JSON text")
		},
		"now": func(args []any, _ any) (any, error) {
			now := e.clock.Now().UTC()
			if len(args) == 0 {
				return now.Format(timeFormat), nil
			}
			in := map[string]any{"ms": float64(now.UnixMilli()), "picture": args[0]}
			if len(args) > 1 {
				in["zone"] = args[1]
			}
			return fromMillis.Eval(context.Background(), in)
		},
		"millis": func([]any, any) (any, error) { return float64(e.clock.Now().UnixMilli()), nil },
		"uuid":   func([]any, any) (any, error) { return e.uuid(), nil },
		"random": func(args []any, _ any) (any, error) {
			if len(args) == 0 {
				return e.random(), nil
			}
			seed, ok := number(args[0])
			if !ok {
				return nil, errors.New("$random: the seed must be a number")
			}
			// Equal seeds give equal numbers, as on the service; which numbers, the service does not say.
			return rand.New(rand.NewPCG(math.Float64bits(seed), 0)).Float64(), nil
		},
		"parse": func(args []any, _ any) (any, error) {
			text, ok := argument(args, 0).(string)
			if !ok {
				return nil, errors.New("$parse wants a string")
			}
			v, err := parseValue(text)
			if err != nil {
				return nil, fmt.Errorf("$parse: %w", err)
			}
			return v.v, nil
		},
		"hash":      hashFunction,
		"range":     rangeFunction,
		"partition": partitionFunction,
	}
}

// timeFormat is how JSONata and the context object write times: UTC with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

func argument(args []any, i int) any {
	if i < len(args) {
		return args[i]
	}
	return nil
}

func number(v any) (float64, bool) {
	switch t := v.(type) {
	case float64:
		return t, true
	case json.Number:
		f, err := t.Float64()
		return f, err == nil
	}
	return 0, false
}

func integer(args []any, i int) (int, bool) {
	f, ok := number(argument(args, i))
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<31 {
		return 0, false
	}
	return int(f), true
}

func hashFunction(args []any, _ any) (any, error) {
	text, ok := argument(args, 0).(string)
	name, ok2 := argument(args, 1).(string)
	if !ok || !ok2 {
		return nil, errors.New("$hash wants a string and an algorithm")
	}
	algorithms := map[string]func() hash.Hash{
		"MD5": md5.New, "SHA-1": sha1.New, "SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New,
	}
	newHash, ok := algorithms[name]
	if !ok {
		return nil, fmt.Errorf("$hash: no algorithm %q; MD5, SHA-1, SHA-256, SHA-384 and SHA-512 exist", name)
	}
	h := newHash()
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil)), nil
}

// rangeFunction is $range(first, last, step): last included, 1,000 numbers at most.
func rangeFunction(args []any, _ any) (any, error) {
	first, ok := integer(args, 0)
	last, ok2 := integer(args, 1)
	step, ok3 := integer(args, 2)
	if !ok || !ok2 || !ok3 || step == 0 {
		return nil, errors.New("$range wants three whole numbers: first, last and a step that is not zero")
	}
	out := []any{}
	for n := first; (step > 0 && n <= last) || (step < 0 && n >= last); n += step {
		if len(out) == 1000 {
			return nil, errors.New("$range makes 1,000 numbers at most")
		}
		out = append(out, float64(n))
	}
	return out, nil
}

func partitionFunction(args []any, _ any) (any, error) {
	size, ok := integer(args, 1)
	if !ok || size < 1 {
		return nil, errors.New("$partition wants an array and a chunk size of at least 1")
	}
	first := argument(args, 0)
	if first == nil {
		return nil, errors.New("$partition: the array is undefined")
	}
	v := withNulls(first)
	items, ok := v.([]any)
	if !ok {
		items = []any{v}
	}
	out := []any{}
	for chunk := range slices.Chunk(items, size) {
		out = append(out, slices.Clone(chunk))
	}
	return out, nil
}

func formatTime(t time.Time) string { return t.UTC().Format(timeFormat) }
