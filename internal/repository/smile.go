package repository

import (
	"bytes"
	"errors"
	"fmt"
)

// maxDepth is how deeply objects and arrays of a blob may nest. Shard file lists nest 3 deep, index metadata about 10.
const maxDepth = 64

// token is what smileReader.next returns.
type token struct {
	kind   kind
	text   string // of a key and of text
	number int64  // of an integer
	bytes  []byte // of binary, part of the input
}

type kind int

const (
	kindEnd kind = iota // of the document
	kindObject
	kindObjectEnd
	kindArray
	kindArrayEnd
	kindKey
	kindText
	kindInteger
	kindBinary
	kindOther // null, booleans, floating point, big numbers, binary in the 7-bit encoding: nothing that is read here
)

var kindNames = [...]string{"end", "object", "end of object", "array", "end of array", "key", "text", "integer", "binary", "other value"}

func (k kind) String() string { return kindNames[k] }

// smileReader reads SMILE, the binary form of JSON in which the engines write their blobs, token by token. It checks structure and
// bounds, but not that text is UTF-8. What it keeps is bounded by its input, whose slices it returns.
// Source: github.com/FasterXML/smile-format-specification, version 1.0.6 of the format, version 0 of the header.
type smileReader struct {
	in      []byte
	at      int
	inside  []bool // the open objects (true) and arrays (false), outermost first
	wantKey bool
	begun   bool

	sharesText  bool
	keys, texts []string // back references
}

// maxShared is the number of strings after which the tables of back references start anew, and maxSharedLen the longest of them.
const (
	maxShared    = 1024
	maxSharedLen = 64
)

func newSmileReader(in []byte) (*smileReader, error) {
	if len(in) < 4 || !bytes.HasPrefix(in, []byte(":)\n")) {
		return nil, errors.New("it does not begin as SMILE does")
	}
	if version := in[3] >> 4; version != 0 {
		return nil, fmt.Errorf("it is SMILE of version %d; only 0 is known", version)
	}
	return &smileReader{in: in, at: 4, sharesText: in[3]&2 != 0}, nil
}

var errCut = errors.New("it ends in the middle of a value")

func (r *smileReader) byte() (byte, error) {
	if r.at >= len(r.in) {
		return 0, errCut
	}
	r.at++
	return r.in[r.at-1], nil
}

func (r *smileReader) take(n uint64) ([]byte, error) {
	if n > uint64(len(r.in)-r.at) {
		return nil, errCut
	}
	r.at += int(n)
	return r.in[r.at-int(n) : r.at : r.at], nil
}

// takeLong reads text that ends with the byte 0xFC.
func (r *smileReader) takeLong() (string, error) {
	n := bytes.IndexByte(r.in[r.at:], 0xFC)
	if n < 0 {
		return "", errCut
	}
	text := string(r.in[r.at : r.at+n])
	r.at += n + 1
	return text, nil
}

// varint reads an unsigned number: 7 bits a byte, the highest first, and 6 bits in the last, which has its top bit set.
func (r *smileReader) varint() (uint64, error) {
	var v uint64
	for range 10 {
		b, err := r.byte()
		if err != nil {
			return 0, err
		}
		if b&0x80 != 0 {
			if v >= 1<<58 {
				break
			}
			return v<<6 | uint64(b&0x3F), nil
		}
		if v >= 1<<57 {
			break
		}
		v = v<<7 | uint64(b)
	}
	return 0, errors.New("a number has more than 64 bits")
}

func zigzag(v uint64) int64 { return int64(v>>1) ^ -int64(v&1) }

// next returns the next token; after the outermost value it returns kindEnd.
func (r *smileReader) next() (token, error) {
	if len(r.inside) == 0 && r.begun {
		if rest := r.in[r.at:]; len(rest) > 0 && !bytes.Equal(rest, []byte{0xFF}) {
			return token{}, fmt.Errorf("%d bytes follow its end", len(rest))
		}
		return token{kind: kindEnd}, nil
	}
	r.begun = true
	if r.wantKey {
		return r.key()
	}
	t, err := r.value()
	if err == nil && len(r.inside) > 0 {
		r.wantKey = r.inside[len(r.inside)-1]
	}
	return t, err
}

func (r *smileReader) open(object bool) error {
	if len(r.inside) == maxDepth {
		return fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	r.inside = append(r.inside, object)
	return nil
}

func (r *smileReader) close() {
	r.inside = r.inside[:len(r.inside)-1]
	r.wantKey = len(r.inside) > 0 && r.inside[len(r.inside)-1]
}

func (r *smileReader) key() (token, error) {
	b, err := r.byte()
	if err != nil {
		return token{}, err
	}
	var name string
	switch {
	case b == 0xFB:
		r.close()
		return token{kind: kindObjectEnd}, nil
	case b == 0x20:
	case b >= 0x30 && b <= 0x33:
		name, err = r.longReference(r.keys, b)
	case b == 0x34:
		name, err = r.takeLong()
	case b >= 0x40 && b <= 0x7F:
		name, err = reference(r.keys, int(b&0x3F))
	case b >= 0x80 && b <= 0xF7:
		n := uint64(b&0x3F) + 1
		if b >= 0xC0 {
			n = uint64(b-0xC0) + 2
		}
		var raw []byte
		raw, err = r.take(n)
		name = string(raw)
		share(&r.keys, name)
	default:
		err = fmt.Errorf("the byte %#x does not begin a key", b)
	}
	r.wantKey = false
	return token{kind: kindKey, text: name}, err
}

func (r *smileReader) value() (token, error) {
	b, err := r.byte()
	if err != nil {
		return token{}, err
	}
	switch {
	case b >= 0x01 && b <= 0x1F:
		text, err := reference(r.texts, int(b)-1)
		return token{kind: kindText, text: text}, err
	case b == 0x20:
		return token{kind: kindText}, nil
	case b >= 0x21 && b <= 0x23: // null, false, true
		return token{kind: kindOther}, nil
	case b == 0x24, b == 0x25:
		v, err := r.varint()
		return token{kind: kindInteger, number: zigzag(v)}, err
	case b == 0x28:
		_, err := r.take(5)
		return token{kind: kindOther}, err
	case b == 0x29:
		_, err := r.take(10)
		return token{kind: kindOther}, err
	case b == 0x2A: // a decimal's scale, then as 0x26
		if _, err := r.varint(); err != nil {
			return token{}, err
		}
		fallthrough
	case b == 0x26, b == 0xE8:
		n, err := r.varint()
		if err != nil {
			return token{}, err
		}
		if n > uint64(len(r.in)) {
			return token{}, errCut
		}
		_, err = r.take((n*8 + 6) / 7)
		return token{kind: kindOther}, err
	case b >= 0x40 && b <= 0xBF:
		// ASCII of 1 to 64 bytes, then other text of 2 to 65: the lengths follow on each other in both.
		n := uint64(b&0x3F) + 1 + uint64(b>>7)
		raw, err := r.take(n)
		text := string(raw)
		if r.sharesText && n <= maxSharedLen {
			share(&r.texts, text)
		}
		return token{kind: kindText, text: text}, err
	case b >= 0xC0 && b <= 0xDF:
		return token{kind: kindInteger, number: zigzag(uint64(b & 0x1F))}, nil
	case b == 0xE0, b == 0xE4:
		text, err := r.takeLong()
		return token{kind: kindText, text: text}, err
	case b >= 0xEC && b <= 0xEF:
		text, err := r.longReference(r.texts, b)
		return token{kind: kindText, text: text}, err
	case b == 0xF8:
		return token{kind: kindArray}, r.open(false)
	case b == 0xF9 && len(r.inside) > 0 && !r.inside[len(r.inside)-1]:
		r.close()
		return token{kind: kindArrayEnd}, nil
	case b == 0xFA:
		return token{kind: kindObject}, r.open(true)
	case b == 0xFD:
		n, err := r.varint()
		if err != nil {
			return token{}, err
		}
		raw, err := r.take(n)
		return token{kind: kindBinary, bytes: raw}, err
	}
	return token{}, fmt.Errorf("the byte %#x does not begin a value", b)
}

func share(table *[]string, s string) {
	if len(*table) == maxShared {
		*table = (*table)[:0]
	}
	*table = append(*table, s)
}

func reference(table []string, i int) (string, error) {
	if i >= len(table) {
		return "", fmt.Errorf("the back reference %d leads nowhere", i)
	}
	return table[i], nil
}

func (r *smileReader) longReference(table []string, b byte) (string, error) {
	low, err := r.byte()
	if err != nil {
		return "", err
	}
	return reference(table, int(b&3)<<8|int(low))
}

// expect reads a token of a kind.
func (r *smileReader) expect(want kind) (token, error) {
	t, err := r.next()
	if err == nil && t.kind != want {
		err = fmt.Errorf("there is an %q where an %q belongs", t.kind, want)
	}
	return t, err
}

// skip reads the next value to its end.
func (r *smileReader) skip() error {
	depth := len(r.inside)
	for {
		if _, err := r.next(); err != nil {
			return err
		}
		if len(r.inside) <= depth {
			return nil
		}
	}
}

// fields calls field for each key of the object whose beginning has been read; field reads or skips the value.
func (r *smileReader) fields(field func(key string) error) error {
	for {
		t, err := r.next()
		if err != nil {
			return err
		}
		if t.kind == kindObjectEnd {
			return nil
		}
		if err := field(t.text); err != nil {
			return err
		}
	}
}
