package frontdoor

import (
	"net/http"
	"strings"
)

// Request is what rules and faults see of a request.
type Request struct {
	Method    string
	Path      string // decoded, without query
	Principal string // the caller's ARN, empty without an Authorizer
	Body      []byte
	// Mutating tells whether the call changes the cluster: neither GET nor HEAD, and no POST that only reads (searches and counts).
	Mutating bool

	segments []string // of Path, empty ones left out
	verify   bool     // of a repository's registration
}

func newRequest(r *http.Request, principal string, body []byte) Request {
	req := Request{Method: r.Method, Path: r.URL.Path, Principal: principal, Body: body, verify: r.URL.Query().Get("verify") != "false"}
	for s := range strings.SplitSeq(r.URL.Path, "/") {
		if s != "" {
			req.segments = append(req.segments, s)
		}
	}
	req.Mutating = r.Method != http.MethodGet && r.Method != http.MethodHead && !req.reads()
	return req
}

// reads tells POST calls that only read.
func (r Request) reads() bool {
	if r.Method != http.MethodPost {
		return false
	}
	for _, s := range r.segments {
		switch s {
		case "_search", "_msearch", "_count", "_mget", "_field_caps", "_analyze", "_validate", "_explain", "_refresh":
			return true
		}
	}
	return false
}

// has reports whether one of the path's segments is one of names.
func (r Request) has(names ...string) bool {
	for _, s := range r.segments {
		for _, n := range names {
			if s == n {
				return true
			}
		}
	}
	return false
}

// repository returns the name when the path is exactly /_snapshot/<name>.
func (r Request) repository() (string, bool) {
	if len(r.segments) != 2 || r.segments[0] != "_snapshot" || r.segments[1] == "_status" {
		return "", false
	}
	return r.segments[1], true
}
