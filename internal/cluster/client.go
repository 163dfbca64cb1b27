// Package cluster speaks to one search cluster over HTTP: Elasticsearch 6.8 to 7.x and OpenSearch 1.0 to 3.7, plain or as an
// Amazon OpenSearch Service domain.
//
// It knows the REST shapes and the differences between versions and turns every failure into a fault (internal/fault); it makes
// no decisions about migrations. Index lists are always explicit names: a wildcard or an exclusion is refused before anything is
// sent. So is an empty list in a call that changes something, because it means "all indices" to the engines; reading about no
// indices gives an empty answer. Long lists are sent in several requests whose answers are merged; a mutating call over several
// requests is not atomic, and every one of them is safe to repeat.
//
// Nothing here retries or waits. A mutating call that was answered 502 or 504, timed out or lost its connection ends as
// fault.OutcomeUnknown: the call may go on in the cluster, so look before asking again.
package cluster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/domainferry/domainferry/internal/fault"
)

const (
	readTimeout   = 30 * time.Second
	mutateTimeout = 55 * time.Second // below the 60 s after which Amazon's load balancer answers 504 by itself
	// maxNames bounds the index names of one path. The engines refuse a request line above 4,096 bytes
	// (http.max_initial_line_length); the rest of it is the operation's own path and query.
	maxNames = 3300
)

// Client is a connection to one cluster. It is safe for concurrent use.
type Client struct {
	endpoint string // as shown in faults: no credentials, no trailing slash
	invalid  error
	http     *http.Client

	mu      sync.Mutex
	version *Version
	asking  chan struct{} // closed when the one who asks for the version has an answer; nil when nobody asks
}

// New returns a client for the cluster at endpoint ("https://host[:port]"; a bare host name means https). transport signs and
// sends; nil means http.DefaultTransport. A malformed endpoint is reported by the first call, as fault.InvalidInput.
func New(endpoint string, transport http.RoundTripper) *Client {
	c := &Client{}
	text := strings.TrimSpace(endpoint)
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		// The parse error quotes the text, which may hold a password.
		c.endpoint, c.invalid = "(malformed endpoint)", errors.New("the endpoint is not a URL")
	case u.User != nil:
		u.User = nil
		c.endpoint, c.invalid = u.String(), errors.New("the endpoint must not hold credentials")
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		c.endpoint, c.invalid = text, errors.New("the endpoint must be https://host[:port], without query or fragment")
	default:
		c.endpoint = strings.TrimRight(u.String(), "/")
	}
	c.http = &http.Client{
		Transport: transport,
		// A search cluster does not redirect; what does is a login page or another service, and a redirected PUT becomes a GET.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// Endpoint returns the endpoint as it appears in faults.
func (c *Client) Endpoint() string { return c.endpoint }

// call is one request. path is already escaped.
type call struct {
	op, method, path string
	query            url.Values
	body             any
	lines            []byte // sent instead of body as it stands: newline-delimited JSON
	mutating         bool
	limit            int64 // bytes of the answer; 0: maxAnswer
	opaque           int   // see unfold
}

// do sends one request and decodes its answer into out.
func (c *Client) do(ctx context.Context, r call, out any) error {
	_, err := c.ask(ctx, r, out)
	return err
}

// ask is do that returns the size of the answer, too.
func (c *Client) ask(ctx context.Context, r call, out any) (size int64, err error) {
	raw, status, err := c.send(ctx, r)
	if err != nil {
		return 0, err
	}
	if err := unfold(raw, out, r.opaque); err != nil {
		return 0, c.answerFault(r, status, raw, err)
	}
	return int64(len(raw)), nil
}

// send sends one request and returns its answer.
func (c *Client) send(ctx context.Context, r call) (raw []byte, status int, err error) {
	if c.invalid != nil {
		return nil, 0, fault.New(fault.InvalidInput, r.op, c.endpoint, c.invalid)
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, fault.Newf(fault.Unavailable, r.op, c.endpoint, "not sent: %w", err)
	}
	timeout := readTimeout
	if r.mutating {
		timeout = mutateTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	content, kind := r.lines, "application/x-ndjson"
	if r.body != nil {
		if content, err = json.Marshal(r.body); err != nil {
			return nil, 0, fault.Newf(fault.InvalidInput, r.op, c.endpoint, "encode the request: %w", err)
		}
		kind = "application/json"
	}
	var body io.Reader
	if content != nil {
		body = bytes.NewReader(content)
	}
	target := c.endpoint + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, 0, fault.Newf(fault.InvalidInput, r.op, c.endpoint, "build the request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "domain-ferry")
	if body != nil {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, 0, c.transportFault(r, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
		return nil, 0, classify(r.op, c.endpoint, r.mutating, resp, raw)
	}
	limit := cmp.Or(r.limit, maxAnswer)
	raw, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, 0, c.transportFault(r, fmt.Errorf("read the answer: %w", err))
	}
	if int64(len(raw)) > limit {
		return nil, 0, c.answerFault(r, resp.StatusCode, raw, fmt.Errorf("%w: more than %d MB", errTooLarge, limit>>20))
	}
	return raw, resp.StatusCode, nil
}

// transportFault classifies a request that got no (whole) answer.
func (c *Client) transportFault(r call, err error) error {
	// http.Client's error repeats method and URL; Op and Target say them already.
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if _, ok := errors.AsType[*credentialsError](err); ok {
		return fault.New(fault.AccessDenied, r.op, c.endpoint, err).
			WithHint("Check that the Lambda (or profile) has a role and that its credentials have not expired.")
	}
	if r.mutating && !neverSent(err) {
		return fault.New(fault.OutcomeUnknown, r.op, c.endpoint, err)
	}
	return fault.New(fault.Unavailable, r.op, c.endpoint, err)
}

// neverSent reports whether err proves that the request did not leave this machine: no connection, or no TLS.
func neverSent(err error) bool {
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	_, dns := errors.AsType[*net.DNSError](err)
	return dns
}

// checkNames refuses everything that is not a plain index name. Wildcards, exclusions, lists, date math and "_all" would make
// the engine choose the indices; an empty list would choose all of them.
func (c *Client) checkNames(op string, names []string) error {
	if len(names) == 0 {
		return fault.Newf(fault.InvalidInput, op, c.endpoint, "the list of indices is empty, which would mean all indices")
	}
	for _, n := range names {
		if err := c.checkName(op, "index", n); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) checkName(op, kind, n string) error {
	if !plainName(n) {
		return fault.Newf(fault.InvalidInput, op, c.endpoint, "%q is not a plain %s name", excerpt(n, 80), kind)
	}
	return nil
}

// plainName reports whether an index, a repository or a snapshot can have the name.
func plainName(n string) bool {
	return n != "" && n != "." && n != ".." && len(n) <= 255 && !strings.ContainsAny(n, `*?,/\<>|"# `) && !strings.ContainsAny(n[:1], "_-+") && validText(n)
}

func validText(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' })
}

// chunked calls f with parts of names whose joined, escaped form fits one path, and with smaller ones where f's answer is too large.
// names are checked, and sent once each.
func (c *Client) chunked(op string, names []string, f func(path string, part []string) error) error {
	if err := c.checkNames(op, names); err != nil {
		return err
	}
	names = unique(names)
	for start := 0; start < len(names); {
		end, length := start, 0
		for ; end < len(names); end++ {
			length += 1 + len(url.PathEscape(names[end]))
			if end > start && length > maxNames+1 {
				break
			}
		}
		err := inParts(names[start:end], end-start, func(part []string) error {
			escaped := make([]string, len(part))
			for i, n := range part {
				escaped[i] = url.PathEscape(n)
			}
			return f("/"+strings.Join(escaped, ","), part)
		})
		if err != nil {
			return err
		}
		start = end
	}
	return nil
}

func unique(names []string) []string {
	seen := make(map[string]bool, len(names))
	var out []string
	for _, n := range names {
		if !seen[n] {
			seen[n] = true
			out = append(out, n)
		}
	}
	return out
}

// acknowledgement is the answer of the calls that change cluster state.
type acknowledgement struct {
	Acknowledged *bool `json:"acknowledged"`
}

// change sends a mutating request whose answer is an acknowledgement. "acknowledged": false means that not every node has
// confirmed the new cluster state in time: the change is likely made, but nobody says so.
func (c *Client) change(ctx context.Context, r call) error {
	r.mutating, r.limit = true, smallAnswer
	var a acknowledgement
	if err := c.do(ctx, r, &a); err != nil {
		return err
	}
	return c.acknowledged(r.op, a)
}

func (c *Client) acknowledged(op string, a acknowledgement) error {
	if a.Acknowledged == nil || !*a.Acknowledged {
		return fault.Newf(fault.OutcomeUnknown, op, c.endpoint, "the cluster did not acknowledge the change in time")
	}
	return nil
}

func excerpt(s string, n int) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

func values(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

func listed(names []string) string {
	s := slices.Clone(names)
	slices.Sort(s)
	if len(s) > 5 {
		return fmt.Sprintf("%s and %d more", strings.Join(s[:5], ", "), len(s)-5)
	}
	return strings.Join(s, ", ")
}
