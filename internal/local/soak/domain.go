package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/domainferry/domainferry/internal/local/domain"
	"github.com/domainferry/domainferry/internal/migration"
)

// Region and account of everything.
const (
	region  = "us-east-1"
	account = "123456789012"
	role    = "arn:aws:iam::" + account + ":role/snapshots"
	root    = "/s3" // of the domains' repositories: root/<bucket>/<base path>
	base    = "soak"
)

// side is one domain and the way to it.
type side struct {
	name   Place
	domain *domain.Domain
	bucket string
}

func newSide(name Place, engine string, s *store, seed uint64, rate int64) (*side, error) {
	bucket := string(name) + "-snapshots"
	d, err := domain.New(domain.Config{Engine: engine, Name: string(name), RepositoryRoot: root, Seed: seed, SnapshotBytesPerSecond: rate, RestoreBytesPerSecond: rate,
		OpenBlobs: func(location string) domain.Blobs {
			bucket, prefix, _ := strings.Cut(strings.TrimPrefix(location, root+"/"), "/")
			return blobs{s, bucket, prefix + "/"}
		}})
	return &side{name: name, domain: d, bucket: bucket}, err
}

func (s *side) url() string { return "https://" + string(s.name) + ".us-east-1.es.amazonaws.com" }

// endpoint is the domain as an input names it.
func (s *side) endpoint() migration.Endpoint {
	return migration.Endpoint{DomainARN: fmt.Sprintf("arn:aws:es:%s:%s:domain/%s", region, account, s.name), Endpoint: s.url(), Repository: migration.Repository{
		Bucket: s.bucket, BasePath: base, Region: region, RoleARN: role,
	}}
}

// answer is what a domain answers; status 0 is a connection that was cut.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// serve lets the domain carry out a request: no latency and no faults. Repositories of type s3 are folders to the model.
func (s *side) serve(method, target string, body []byte, header http.Header) (a answer) {
	r, err := http.NewRequest(method, s.url()+target, bytes.NewReader(body))
	if err != nil {
		return answer{status: http.StatusBadRequest, body: []byte(err.Error())}
	}
	maps.Copy(r.Header, header)
	if len(body) > 0 && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	name, one := strings.CutPrefix(r.URL.Path, "/_snapshot/")
	one = one && !strings.Contains(name, "/")
	if one && (method == http.MethodPut || method == http.MethodPost) {
		r.Body = io.NopCloser(bytes.NewReader(toFolder(body)))
	}
	w := &recorder{header: http.Header{}}
	defer func() {
		if v := recover(); v != nil {
			if v != http.ErrAbortHandler { // a dead node's way to cut the connection
				panic(v)
			}
			a = answer{}
		}
	}()
	s.domain.ServeHTTP(w, r)
	a = answer{w.status, w.header, w.body.Bytes()}
	if method == http.MethodGet && a.status == http.StatusOK && (one || r.URL.Path == "/_snapshot") {
		a.body = toS3(a.body)
	}
	return a
}

type recorder struct {
	status int
	header http.Header
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}

// kept are the settings that mean the same for both types; the others travel under a prefix (internal/local/frontdoor does the same on disk).
var kept = []string{"readonly", "compress", "chunk_size", "max_snapshot_bytes_per_sec", "max_restore_bytes_per_sec"}

const carried = "s3_"

type registration struct {
	Type     string         `json:"type"`
	Settings map[string]any `json:"settings,omitempty"`
}

func toFolder(body []byte) []byte {
	var r registration
	if json.Unmarshal(body, &r) != nil || r.Type != "s3" {
		return body
	}
	settings := map[string]any{"location": path.Join(root, fmt.Sprint(r.Settings["bucket"]), fmt.Sprint(r.Settings["base_path"]))}
	for k, v := range r.Settings {
		if !slices.Contains(kept, k) {
			k = carried + k
		}
		settings[k] = v
	}
	out, _ := json.Marshal(registration{"fs", settings}) // maps of strings always encode
	return out
}

func toS3(body []byte) []byte {
	var list map[string]registration
	if json.Unmarshal(body, &list) != nil {
		return body
	}
	for name, r := range list {
		settings := map[string]any{}
		for k, v := range r.Settings {
			if k != "location" {
				settings[strings.TrimPrefix(k, carried)] = v
			}
		}
		list[name] = registration{"s3", settings}
	}
	out, _ := json.Marshal(list)
	return out
}

// transport is the way of one invocation to one domain.
type transport struct {
	w    *world
	inv  *invocation
	side *side
}

// RoundTrip implements http.RoundTripper.
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		_ = r.Body.Close()
	}
	var a answer
	verdict, err := t.w.request(r.Context(), t.inv, request{at: t.side.name, what: r.Method + " " + r.URL.RequestURI() + " " + digest(body), mutating: mutates(r)}, func() {
		if deaf := t.w.sabotage.Deaf; deaf != nil && deaf(t.side.name, r.Method, r.URL.Path) {
			a = answer{http.StatusOK, jsonType, []byte(`{"acknowledged":true,"shards_acknowledged":true}`)}
			return
		}
		a = t.side.serve(r.Method, r.URL.RequestURI(), body, r.Header)
	})
	if err != nil {
		return nil, err
	}
	switch verdict {
	case passed:
	case Timeout, TimeoutWithEffect, TimeoutLate:
		a = html(http.StatusGatewayTimeout)
	case Throttle:
		a = answer{http.StatusTooManyRequests, jsonType, []byte(`{"message":"Request throttled due to too many requests"}`)}
	case Unavailable, InternalError:
		a = html(http.StatusServiceUnavailable)
	case Skewed:
		now := time.Now().UTC()
		const form = "20060102T150405Z"
		a = answer{http.StatusForbidden, jsonType, fmt.Appendf(nil, `{"message":"Signature expired: %s is now earlier than %s (%s - 5 min.)"}`,
			now.Add(-10*time.Minute).Format(form), now.Add(-5*time.Minute).Format(form), now.Format(form))}
	default:
		a = answer{}
	}
	if a.status == 0 {
		return nil, errCut
	}
	return &http.Response{StatusCode: a.status, Status: http.StatusText(a.status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: a.header,
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)), Request: r}, nil
}

var jsonType = http.Header{"Content-Type": {"application/json"}}

func html(status int) answer {
	return answer{status, http.Header{"Content-Type": {"text/html"}}, []byte("<html><body><b>Http/1.1 " + http.StatusText(status) + "</b></body> </html>")}
}

// mutates tells requests that change something; searches are sent by POST.
func mutates(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return false
	case http.MethodPost:
		last := path.Base(r.URL.Path)
		return !slices.Contains([]string{"_search", "_mget", "_count", "_pit", "_msearch", "scroll"}, last)
	}
	return true
}
