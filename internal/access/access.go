// Package access knows what has to be allowed so that a migration can reach across accounts, and how to give exactly that and take
// exactly that back: statements of bucket policies, Object Ownership and ACLs of buckets, roles and role mappings of the security plugin.
//
// Everything but Bucket is pure. A change is a text before and a text after; both are kept in the undo log. TakeBack is the inverse: where
// nobody else has changed the thing since, it is the very bytes from before; where somebody has, their text without what was added.
package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Kind is a kind of thing whose access is changed.
type Kind string

// The kinds.
const (
	BucketPolicy    Kind = "bucketPolicy"
	ObjectOwnership Kind = "objectOwnership"
	BucketACL       Kind = "bucketAcl"
	SecurityRole    Kind = "securityRole"
	RoleMapping     Kind = "roleMapping"
)

// OfBucket reports whether it is a property of a bucket; the others are of a domain's security plugin.
func (k Kind) OfBucket() bool { return k == BucketPolicy || k == ObjectOwnership || k == BucketACL }

// Inverse is what takes a change back.
type Inverse struct {
	// Text is what the thing has to be; nil is that it has to be gone. It counts only where Needed.
	Text   *string
	Needed bool
	// LeftAlone says why nothing is done: what was set is no longer there, but something else, which cannot be told from it.
	LeftAlone string
}

// TakeBack says how to take back that a thing was changed from before to set, now that it is now; nil is that there is none. An error is
// a text that is not what its kind should be.
func TakeBack(kind Kind, before *string, set string, now *string) (Inverse, error) {
	if now == nil {
		if before == nil {
			return Inverse{}, nil
		}
		return Inverse{LeftAlone: "somebody else has removed it since"}, nil
	}
	if before != nil && same(kind, *now, *before) {
		return Inverse{}, nil
	}
	if same(kind, *now, set) {
		return Inverse{Text: before, Needed: true}, nil
	}
	var rest *string
	var err error
	switch kind {
	case BucketPolicy:
		rest, err = withoutAdded(before, set, *now)
	case RoleMapping:
		rest, err = withoutAddedRoles(before, set, *now)
	case BucketACL:
		rest, err = withoutAddedGrants(before, set, *now)
	default:
		return Inverse{LeftAlone: fmt.Sprintf("somebody else has changed it to %s since", excerpt(*now, 200))}, nil
	}
	if err != nil {
		return Inverse{}, err
	}
	if rest != nil && same(kind, *rest, *now) {
		return Inverse{}, nil // theirs, and what was added is gone already
	}
	return Inverse{Text: rest, Needed: true}, nil
}

// Same reports whether two texts of a kind mean the same.
func Same(kind Kind, a, b string) bool { return same(kind, a, b) }

func same(kind Kind, a, b string) bool {
	if a == b {
		return true
	}
	if kind == ObjectOwnership {
		return false
	}
	// The security API shows what was not set, too, as empty.
	sparse := kind == SecurityRole || kind == RoleMapping
	x, errX := canonical([]byte(a), sparse)
	y, errY := canonical([]byte(b), sparse)
	return errX == nil && errY == nil && x == y
}

// canonical is a text that two documents share exactly when they mean the same in the languages of policies, ACLs and mappings: there, a
// list of one is its element, the order and repetition of a list's elements mean nothing, and scalars are texts. Sparse documents are without
// fields that are null or empty lists.
func canonical(document []byte, sparse bool) (string, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return "", err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return "", errors.New("it has text after the document")
	}
	return canon(v, sparse), nil
}

func canon(v any, sparse bool) string {
	switch v := v.(type) {
	case map[string]any:
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		var b strings.Builder
		b.WriteByte('{')
		for _, k := range keys {
			if e := canon(v[k], sparse); !sparse || e != "null" && e != "[]" {
				fmt.Fprintf(&b, "%q:%s,", k, e)
			}
		}
		b.WriteByte('}')
		return b.String()
	case []any:
		elements := make([]string, len(v))
		for i, e := range v {
			elements[i] = canon(e, sparse)
		}
		slices.Sort(elements)
		elements = slices.Compact(elements)
		if len(elements) == 1 {
			return elements[0]
		}
		return "[" + strings.Join(elements, ",") + "]"
	case nil:
		return "null"
	case json.Number:
		return fmt.Sprintf("%q", v.String())
	}
	return fmt.Sprintf("%q", fmt.Sprint(v)) // a text, or a boolean, which a policy may write either way
}

// encode is JSON without the escapes that are for HTML, and without the line end.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil // texts and lists of texts always encode
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

func excerpt(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
