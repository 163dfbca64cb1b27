package access

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxPolicySize is the most bytes that S3 takes as a bucket policy (20 KB; the S3 user guide on bucket policies).
const MaxPolicySize = 20 << 10

// ErrTooLarge is of a policy that has no room for the statements.
var ErrTooLarge = fmt.Errorf("the bucket policy would be larger than %d bytes", MaxPolicySize)

// Statement is a statement of a bucket policy. Sid tells it from those of others.
type Statement struct {
	Sid       string
	Effect    string
	Principal map[string]string
	Action    []string
	Resource  []string
	Condition map[string]map[string][]string `json:",omitempty"`
}

// Place is a repository in a bucket.
type Place struct {
	Partition string // "aws" when empty
	Bucket    string
	BasePath  string // may be empty: the whole bucket
	// Hashed is of repositories of OpenSearch 3.2 and newer, which keep shards in <hash>/<base path> too (s3-copy.md 0.5).
	Hashed bool
}

func (p Place) arn(path string) string {
	partition := p.Partition
	if partition == "" {
		partition = "aws"
	}
	return "arn:" + partition + ":s3:::" + p.Bucket + path
}

// objects are the resources of the repository's objects.
func (p Place) objects() []string {
	if p.BasePath == "" {
		return []string{p.arn("/*")}
	}
	list := []string{p.arn("/" + p.BasePath + "/*")}
	if p.Hashed {
		list = append(list, p.arn("/*/"+p.BasePath+"/*"))
	}
	return list
}

// listed are the conditions under which the bucket may be listed.
func (p Place) listed() map[string]map[string][]string {
	if p.BasePath == "" {
		return nil
	}
	prefixes := []string{p.BasePath, p.BasePath + "/*"}
	if p.Hashed {
		prefixes = append(prefixes, "", "*/"+p.BasePath+"/*")
	}
	return map[string]map[string][]string{"StringLike": {"s3:prefix": prefixes}}
}

// ReadStatements let a principal, the role that copies, read a repository: topology copy.
func ReadStatements(migration, principal string, p Place) []Statement {
	who := map[string]string{"AWS": principal}
	return []Statement{
		{sid(migration, "ListForCopy"), "Allow", who, []string{"s3:ListBucket"}, []string{p.arn("")}, p.listed()},
		{sid(migration, "ReadForCopy"), "Allow", who, []string{"s3:GetObject"}, p.objects(), nil},
	}
}

// WriteStatements let a principal, the snapshot role of a domain, keep its repository in the bucket: topology shared. The rights are those
// that Amazon documents for a snapshot role, and those of multipart uploads, which the plugin makes of large blobs.
func WriteStatements(migration, principal string, p Place) []Statement {
	who := map[string]string{"AWS": principal}
	return []Statement{
		{sid(migration, "ListForSnapshots"), "Allow", who, []string{"s3:ListBucket"}, []string{p.arn("")}, p.listed()},
		{sid(migration, "WriteSnapshots"), "Allow", who,
			[]string{"s3:AbortMultipartUpload", "s3:DeleteObject", "s3:GetObject", "s3:ListMultipartUploadParts", "s3:PutObject"}, p.objects(), nil},
	}
}

// sid names a statement after its migration and its purpose. Sids are letters and digits; the digest tells "a-b" from "ab".
func sid(migration, purpose string) string {
	return fmt.Sprintf("DomainFerry%s%x", purpose, sha256.Sum256([]byte(migration)))[:len("DomainFerry")+len(purpose)+12]
}

// Request is the statements as an administrator can add them to a policy by hand.
func Request(statements []Statement) string {
	lines := make([]string, len(statements))
	for i, s := range statements {
		lines[i] = string(encode(s))
	}
	return strings.Join(lines, ",\n")
}

// Merge adds to a policy (nil: there is none) the statements that it does not have, and reports whether there was one. What is there keeps its
// bytes and its order, unknown fields too. A statement of ours that says something else than it should is replaced. An error is ErrTooLarge
// or that the text is no policy.
func Merge(policy *string, statements ...Statement) (merged string, changed bool, err error) {
	old := []byte(`{"Version":"2012-10-17","Statement":[]}`)
	if policy != nil {
		old = []byte(*policy)
	}
	p, err := parsePolicy(old)
	if err != nil {
		return "", false, err
	}
	var missing []Statement
	stale := map[string]bool{}
	for _, s := range statements {
		want, err := meaning(encode(s))
		if err != nil {
			return "", false, err
		}
		if slices.ContainsFunc(p.statements, func(there statement) bool { return there.meaning == want }) {
			continue
		}
		missing = append(missing, s)
		stale[s.Sid] = true
	}
	if len(missing) == 0 {
		return string(old), false, nil
	}
	if slices.ContainsFunc(p.statements, func(there statement) bool { return stale[there.sid] }) {
		if old, err = p.without(stale); err != nil {
			return "", false, err
		}
		if p, err = parsePolicy(old); err != nil {
			return "", false, err
		}
	}
	added := p.with(missing)
	if len(added) > MaxPolicySize {
		var small bytes.Buffer
		if err := json.Compact(&small, added); err != nil {
			return "", false, fmt.Errorf("the bucket policy is not JSON: %w", err)
		}
		added = small.Bytes()
	}
	if len(added) > MaxPolicySize {
		return "", false, ErrTooLarge
	}
	return string(added), true, nil
}

// withoutAdded is the policy of now without the statements that set has more than before; nil when none is left.
func withoutAdded(before *string, set, now string) (*string, error) {
	theirs := map[string]bool{}
	if before != nil {
		p, err := parsePolicy([]byte(*before))
		if err != nil {
			return nil, err
		}
		for _, s := range p.statements {
			theirs[s.sid] = true
		}
	}
	p, err := parsePolicy([]byte(set))
	if err != nil {
		return nil, err
	}
	added := map[string]bool{}
	for _, s := range p.statements {
		if !theirs[s.sid] {
			added[s.sid] = true
		}
	}
	if p, err = parsePolicy([]byte(now)); err != nil {
		return nil, err
	}
	left := 0
	for _, s := range p.statements {
		if !added[s.sid] {
			left++
		}
	}
	if left == 0 {
		return nil, nil // S3 takes no policy without statements
	}
	rest, err := p.without(added)
	if err != nil {
		return nil, err
	}
	text := string(rest)
	return &text, nil
}

// policy is where the statements of a policy stand.
type policy struct {
	text       []byte
	where      span // the value of Statement
	single     bool // it is one statement, not a list
	statements []statement
}

type statement struct {
	span
	sid, meaning string
}

func parsePolicy(text []byte) (policy, error) {
	p := policy{text: text}
	fields, err := members(text)
	if err != nil {
		return p, fmt.Errorf("the bucket policy cannot be read: %w", err)
	}
	found := false
	for _, f := range fields {
		switch {
		case f.name == "Statement":
			found, p.where = true, f.span
		case strings.EqualFold(f.name, "Statement"):
			return p, fmt.Errorf("the bucket policy cannot be read: it has %q", excerpt(f.name, 80))
		}
	}
	if !found {
		return p, errors.New("the bucket policy cannot be read: it has no Statement")
	}
	list, err := elements(p.where.of(text))
	if err != nil {
		p.single, list = true, []span{{0, p.where.end - p.where.start}}
	}
	for _, s := range list {
		s = span{s.start + p.where.start, s.end + p.where.start}
		fields, err := members(s.of(text))
		if err != nil {
			return p, fmt.Errorf("a statement of the bucket policy cannot be read: %w", err)
		}
		x := statement{span: s}
		for _, f := range fields {
			if f.name == "Sid" {
				x.sid = string(textOf(s.of(text), f))
			}
		}
		if x.meaning, err = meaning(s.of(text)); err != nil {
			return p, fmt.Errorf("a statement of the bucket policy cannot be read: %w", err)
		}
		p.statements = append(p.statements, x)
	}
	return p, nil
}

func textOf(document []byte, f member) string { return text(f.of(document)) }

// meaning is the canonical text of a statement without its name.
func meaning(raw []byte) (string, error) {
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&fields); err != nil {
		return "", err
	}
	delete(fields, "Sid")
	return canon(fields, false), nil
}

// with is the policy with more statements at its end.
func (p policy) with(more []Statement) []byte {
	var added []byte
	for i, s := range more {
		if i > 0 || len(p.statements) > 0 {
			added = append(added, ',')
		}
		added = append(added, encode(s)...)
	}
	at := p.where.start + 1 // after the bracket
	if n := len(p.statements); n > 0 {
		at = p.statements[n-1].end
	}
	out := slices.Clone(p.text[:at])
	if p.single {
		out = append(append(slices.Clone(p.text[:p.where.start]), '['), p.where.of(p.text)...)
	}
	out = append(out, added...)
	if p.single {
		out = append(out, ']')
	}
	return append(out, p.text[at:]...)
}

// without is the policy without the statements of these names; it may have none left.
func (p policy) without(names map[string]bool) ([]byte, error) {
	if p.single {
		if names[p.statements[0].sid] {
			return slices.Concat(p.text[:p.where.start], []byte("[]"), p.text[p.where.end:]), nil
		}
		return p.text, nil
	}
	var kept [][]byte
	for _, s := range p.statements {
		if !names[s.sid] {
			kept = append(kept, s.of(p.text))
		}
	}
	if len(kept) == len(p.statements) {
		return p.text, nil
	}
	// White space between the statements is the only thing that may differ.
	return slices.Concat(p.text[:p.where.start+1], bytes.Join(kept, []byte(",")), []byte("]"), p.text[p.where.end:]), nil
}
