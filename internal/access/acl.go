package access

import (
	"encoding/json"
	"fmt"
	"slices"
)

// The values of Object Ownership.
const (
	OwnerEnforced  = "BucketOwnerEnforced"
	OwnerPreferred = "BucketOwnerPreferred"
	ObjectWriter   = "ObjectWriter"
)

// Owning is what Object Ownership has to be so that the bucket's owner owns what another account writes, and whether the bucket's ACL counts. nil
// is a bucket without the setting, whose objects are their writer's. BucketOwnerPreferred makes objects the owner's that are written with the ACL
// bucket-owner-full-control; BucketOwnerEnforced makes all the owner's, and knows no ACLs, so that nothing has to be changed there.
func Owning(now *string) (set string, changed, usesACL bool) {
	if now == nil {
		return OwnerPreferred, true, true
	}
	switch *now {
	case OwnerEnforced, OwnerPreferred:
		return *now, false, *now == OwnerPreferred
	}
	return OwnerPreferred, true, true
}

// ACL is a bucket's access control list, as the undo log keeps it.
type ACL struct {
	Owner  string  `json:"owner"` // canonical id
	Grants []Grant `json:"grants"`
}

// Grant is one entry: ID is the canonical id of an account, URI that of a group; one of them is empty.
type Grant struct {
	ID         string `json:"id,omitempty"`
	URI        string `json:"uri,omitempty"`
	Type       string `json:"type"`
	Permission string `json:"permission"`
}

// Text is the list as a text.
func (a ACL) Text() string { return string(encode(a)) }

// ParseACL reads Text.
func ParseACL(text string) (ACL, error) {
	var a ACL
	if err := json.Unmarshal([]byte(text), &a); err != nil {
		return a, fmt.Errorf("the bucket ACL cannot be read: %w", err)
	}
	return a, nil
}

// MergeGrants adds what an account needs to write a repository into a bucket that uses ACLs: to list it and to write to it. It reports
// whether one was missing.
func MergeGrants(acl, canonicalID string) (merged string, changed bool, err error) {
	a, err := ParseACL(acl)
	if err != nil {
		return "", false, err
	}
	for _, permission := range []string{"READ", "WRITE"} {
		g := Grant{ID: canonicalID, Type: "CanonicalUser", Permission: permission}
		full := Grant{ID: canonicalID, Type: "CanonicalUser", Permission: "FULL_CONTROL"}
		if !slices.Contains(a.Grants, g) && !slices.Contains(a.Grants, full) {
			a.Grants, changed = append(a.Grants, g), true
		}
	}
	if !changed {
		return acl, false, nil
	}
	return a.Text(), true, nil
}

func withoutAddedGrants(before *string, set, now string) (*string, error) {
	var old ACL
	if before != nil {
		var err error
		if old, err = ParseACL(*before); err != nil {
			return nil, err
		}
	}
	added, err := ParseACL(set)
	if err != nil {
		return nil, err
	}
	a, err := ParseACL(now)
	if err != nil {
		return nil, err
	}
	a.Grants = slices.DeleteFunc(a.Grants, func(g Grant) bool { return slices.Contains(added.Grants, g) && !slices.Contains(old.Grants, g) })
	text := a.Text()
	return &text, nil
}
