package frontdoor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	caller = "arn:aws:iam::111122223333:role/migrator"
	role   = "arn:aws:iam::111122223333:role/snapshots"
)

// cluster is a fake upstream that keeps repositories and remembers what it was asked.
type cluster struct {
	*httptest.Server
	mu           sync.Mutex
	asked        []string // method and path of every call
	header       http.Header
	repositories map[string]repository
	snapshots    map[string]string        // name to state
	block        map[string]chan struct{} // path to what the call waits for
}

func newCluster(t *testing.T) *cluster {
	c := &cluster{repositories: map[string]repository{}, snapshots: map[string]string{}, block: map[string]chan struct{}{}}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	wait := c.block[r.URL.Path]
	c.mu.Unlock()
	if wait != nil {
		<-wait
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.Method+" "+r.URL.RequestURI())
	c.header = r.Header.Clone()
	w.Header().Set("Content-Type", "application/json")
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case parts[0] == "_snapshot" && len(parts) == 2 && r.Method == "PUT":
		var repo repository
		if err := json.Unmarshal(body, &repo); err != nil {
			w.WriteHeader(400)
			return
		}
		c.repositories[parts[1]] = repo
	case parts[0] == "_snapshot" && len(parts) <= 2 && r.Method == "GET":
		list := maps.Clone(c.repositories)
		if len(parts) == 2 && parts[1] != "_all" {
			list = map[string]repository{parts[1]: c.repositories[parts[1]]}
		}
		_ = json.NewEncoder(w).Encode(list)
		return
	case parts[0] == "_snapshot" && len(parts) == 3 && r.Method == "PUT":
		c.snapshots[parts[2]] = "IN_PROGRESS"
	case parts[0] == "_snapshot" && len(parts) == 3 && r.Method == "GET":
		state := c.snapshots[parts[2]]
		if state == "GONE" {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprintf(w, `{"snapshots":[{"state":%q}]}`, state)
		return
	}
	fmt.Fprint(w, `{"acknowledged":true}`)
}

func (c *cluster) calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

func (c *cluster) finish(state string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.snapshots {
		c.snapshots[name] = state
	}
}

// allow lets in whoever sends "Authorization: signed".
var allow = AuthorizerFunc(func(r *http.Request, _ []byte) (string, error) {
	if r.Header.Get("Authorization") != "signed" {
		return "", errors.New("the request signature we calculated does not match the signature you provided")
	}
	return caller, nil
})

type log struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *log) lines(t *testing.T) []logEntry {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var entries []logEntry
	for line := range strings.Lines(l.String()) {
		var e logEntry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries
}

// open starts a door before upstream with the test's usual configuration, changed by change.
func open(t *testing.T, upstream string, change func(*Config)) *Door {
	t.Helper()
	cfg := Config{
		Upstream: upstream, Engine: "opensearch-2.19.0", GatewayRoot: t.TempDir(), Region: "eu-central-1",
		BucketRegions: map[string]string{"far": "us-west-2"}, Authorizer: allow, AutomatedEvery: -1,
	}
	for _, bucket := range []string{"near", "far"} {
		if err := os.Mkdir(filepath.Join(cfg.GatewayRoot, bucket), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if change != nil {
		change(&cfg)
	}
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

type reply struct {
	status int
	header http.Header
	body   string
}

func send(t *testing.T, d *Door, method, path, body string, headers ...string) reply {
	t.Helper()
	r, err := try(t.Context(), d, method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

func try(ctx context.Context, d *Door, method, path, body string, headers ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, d.URL()+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Authorization", "signed")
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b)}, err
}

func TestNewRefuses(t *testing.T) {
	good := Config{Upstream: "http://127.0.0.1:1", Engine: "opensearch-2.19.0", GatewayRoot: "/x"}
	if _, err := New(good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"upstream":            func(c *Config) { c.Upstream = "127.0.0.1" },
		"engine":              func(c *Config) { c.Engine = "solr-9.1.0" },
		"old engine":          func(c *Config) { c.Engine = "elasticsearch-2.3.0" },
		"profile":             func(c *Config) { c.Profile = "strict" },
		"no root":             func(c *Config) { c.GatewayRoot = "" },
		"security, unchecked": func(c *Config) { c.Security = true },
		"open, automated":     func(c *Config) { c.Profile, c.AutomatedRoot = Open, "/y" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestSignatures(t *testing.T) {
	c := newCluster(t)
	d := open(t, c.URL, nil)
	if r := send(t, d, "GET", "/_cluster/health", "", "Authorization", ""); r.status != 403 ||
		r.body != `{"Message":"User: anonymous is not authorized to perform: es:ESHttpGet"}` {
		t.Errorf("unsigned: %+v", r)
	}
	if r := send(t, d, "PUT", "/x", "", "Authorization", "forged"); r.status != 403 || !strings.Contains(r.body, "does not match") {
		t.Errorf("badly signed: %+v", r)
	}
	if len(c.calls()) != 0 {
		t.Errorf("refused calls reached the cluster: %v", c.calls())
	}
	if r := send(t, d, "GET", "/_cluster/health?level=shards", "", "X-Amz-Date", "now", "x-proxy-user", "admin"); r.status != 200 {
		t.Errorf("signed: %+v", r)
	}
	if got := c.calls(); !slices.Equal(got, []string{"GET /_cluster/health?level=shards"}) {
		t.Errorf("the cluster saw %v", got)
	}
	for _, h := range []string{"Authorization", "X-Amz-Date", "X-Proxy-User", "X-Forwarded-For"} {
		if c.header.Get(h) != "" {
			t.Errorf("header %s reached the cluster: %s", h, c.header.Get(h))
		}
	}
}

func TestSecurityNamesTheCaller(t *testing.T) {
	c := newCluster(t)
	d := open(t, c.URL, func(cfg *Config) { cfg.Security = true })
	send(t, d, "GET", "/", "", "x-proxy-user", "admin", "x-proxy-roles", "all_access")
	for h, want := range map[string]string{"X-Proxy-User": caller, "X-Proxy-Roles": caller, "X-Forwarded-For": "127.0.0.1"} {
		if got := c.header.Get(h); got != want {
			t.Errorf("%s: %q, want %q", h, got, want)
		}
	}
}

func TestProfileAmazon(t *testing.T) {
	const es68, es71, es710, os13, os219, os37 = "elasticsearch-6.8.0", "elasticsearch-7.1.1", "elasticsearch-7.10.2", "opensearch-1.3.20",
		"opensearch-2.19.0", "opensearch-3.7.0"
	all := []string{es68, es71, es710, os13, os219, os37}
	newer := []string{es710, os13, os219, os37}
	tests := []struct {
		method, path, body string
		allowed            []string // the others refuse
		payload            bool     // the refusal is of the payload
	}{
		{"GET", "/", "", all, false},
		{"PUT", "/", "", nil, false},
		{"GET", "/_cat/indices", "", all, false},
		{"GET", "/_cat/nodeattrs", "", nil, false},
		{"GET", "/_cluster/health/a", "", all, false},
		{"GET", "/_cluster/allocation/explain", "", all, false},
		{"POST", "/_cluster/reroute", "", nil, false},
		{"GET", "/_cluster", "", nil, false},
		{"GET", "/_settings", "", nil, false},
		{"PUT", "/_settings", "{}", nil, false},
		{"PUT", "//_settings", "{}", nil, false},
		{"PUT", "/%5Fsettings", "{}", nil, false},
		{"GET", "/a/_settings", "", all, false},
		{"GET", "/_all/_settings", "", all, false},
		{"POST", "/_close", "", nil, false},
		{"POST", "/a/_close", "", newer, false},
		{"POST", "/_all/_close", "", newer, false},
		{"POST", "/a/_open", "", all, false},
		{"PUT", "/a/_block/write", "", all, false},
		{"GET", "/_recovery", "", nil, false},
		{"GET", "/a/_recovery", "", all, false},
		{"GET", "/_data_stream", "", nil, false},
		{"GET", "/_data_stream/x", "", nil, false},
		{"DELETE", "/_data_stream/x", "", []string{os13, os219, os37}, false},
		{"DELETE", "/_data_stream", "", nil, false},
		{"GET", "/_component_template", "", nil, false},
		{"GET", "/_index_template", "", []string{es710}, false},
		{"GET", "/_template", "", all, false},
		{"GET", "/_resolve/index/*", "", newer, false},
		{"GET", "/_scripts/x", "", all, false},
		{"GET", "/_ingest/pipeline/x", "", all, false},
		{"GET", "/_ingest/processor/grok", "", nil, false},
		{"GET", "/_search/scroll", "", all, false},
		{"POST", "/_search/point_in_time", "", []string{os219, os37}, false},
		{"GET", "/_list/indices", "", []string{os219, os37}, false},
		{"GET", "/_plugins/_security/api/roles", "", []string{os13, os219, os37}, false},
		{"GET", "/_opendistro/_security/api/roles", "", []string{es68, es71, es710}, false},
		{"GET", "/_opendistro/_ppl", "", []string{es710}, false},
		{"GET", "/_snapshot/_status", "", all, false},
		{"PUT", "/_snapshot/r/s", "{}", all, false},
		{"POST", "/_snapshot/r/s/_restore", "{}", all, false},
		{"PUT", "/_snapshot/cs-automated", "{}", nil, false},
		{"PUT", "/_snapshot/cs-mine", "{}", nil, false},
		{"DELETE", "/_snapshot/cs-automated", "", nil, false},
		{"DELETE", "/_snapshot/*", "", nil, false},
		{"DELETE", "/_snapshot/a,cs-automated", "", nil, false},
		{"PUT", "/_snapshot/cs-automated/s", "{}", nil, false},
		{"DELETE", "/_snapshot/cs-automated/s", "", nil, false},
		{"GET", "/_snapshot/cs-automated/_all", "", all, false},
		{"POST", "/_snapshot/cs-automated/s/_restore", "{}", all, false},
		{"GET", "/_cluster/settings?include_defaults=true", "", all, false},
		{"DELETE", "/_cluster/settings", "", nil, false},
		{"PUT", "/_cluster/settings", `{"persistent":{"action.auto_create_index":"false"}}`, all, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"action":{"auto_create_index":false}}}`, nil, true},
		{"PUT", "/_cluster/settings", `{"transient":{"action.auto_create_index":"false"}}`, nil, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"indices.recovery.max_bytes_per_sec":"1gb"}}`, nil, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"indices.recovery.max_bytes_per_sec":null}}`, nil, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"cluster.routing.allocation.node_initial_primaries_recoveries":"16"}}`, nil, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"cluster.max_shards_per_node":5}}`, []string{es68, es71, es710, os13}, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"cluster.blocks.read_only":false}}`, []string{es68}, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"search.phase_took_enabled":true}}`, []string{os219, os37}, true},
		{"PUT", "/_cluster/settings", `{"persistent":{"plugins.index_state_management.enabled":null}}`, all, true},
		{"PUT", "/_cluster/settings", `nonsense`, nil, true},
	}
	c := newCluster(t)
	for _, engine := range all {
		d := open(t, c.URL, func(cfg *Config) { cfg.Engine = engine })
		free := open(t, c.URL, func(cfg *Config) { cfg.Engine, cfg.Profile = engine, Open })
		for _, tt := range tests {
			before := len(c.calls())
			r := send(t, d, tt.method, tt.path, tt.body)
			switch allowed := slices.Contains(tt.allowed, engine); {
			case allowed && r.status != 200:
				t.Errorf("%s: %s %s %s: %d %s, want it let through", engine, tt.method, tt.path, tt.body, r.status, r.body)
			case !allowed && (r.status != 401 || !strings.Contains(r.body, "Your request: '") ||
				strings.Contains(r.body, "payload") != tt.payload && tt.method == "PUT" || len(c.calls()) != before):
				t.Errorf("%s: %s %s %s: %d %s, want it refused", engine, tt.method, tt.path, tt.body, r.status, r.body)
			}
			if r := send(t, free, tt.method, tt.path, tt.body); r.status != 200 {
				t.Errorf("%s, open: %s %s: %d %s", engine, tt.method, tt.path, r.status, r.body)
			}
		}
	}
}

func TestRegister(t *testing.T) {
	s3 := func(settings string) string { return `{"type":"s3","settings":{` + settings + `}}` }
	named := func(settings string) string { return s3(`"role_arn":"` + role + `",` + settings) }
	tests := map[string]struct {
		body   string
		status int
		want   []string // in the answer
	}{
		"own Region":            {named(`"bucket":"near","region":"eu-central-1"`), 200, nil},
		"no Region":             {named(`"bucket":"near"`), 200, nil},
		"endpoint":              {named(`"bucket":"far","endpoint":"s3.amazonaws.com"`), 200, nil},
		"the bucket's endpoint": {named(`"bucket":"far","endpoint":"https://s3.us-west-2.amazonaws.com"`), 200, nil},
		"other endpoint":        {named(`"bucket":"far","endpoint":"s3.eu-west-1.amazonaws.com"`), 500, []string{"PermanentRedirect"}},
		"wrong Region": {named(`"bucket":"far","region":"eu-central-1"`), 500, []string{"repository_verification_exception",
			"The authorization header is malformed; the region 'eu-central-1' is wrong; expecting 'us-west-2'", "s3_exception", `"root_cause"`}},
		"no Region, far":    {named(`"bucket":"far"`), 500, []string{"expecting 'us-west-2'"}},
		"right Region, far": {named(`"bucket":"far","region":"us-west-2"`), 500, []string{"must be addressed using the specified endpoint"}},
		"readonly, wrong Region": {named(`"bucket":"far","region":"eu-central-1","readonly":true`), 500,
			[]string{"Exception when listing blobs"}},
		"no role":      {s3(`"bucket":"near"`), 401, []string{`"Message":"settings.role_arn is needed for snapshot registration."`}},
		"a user's ARN": {s3(`"bucket":"near","role_arn":"arn:aws:iam::111122223333:user/x"`), 400, []string{"not the ARN of a role"}},
		"role elsewhere": {s3(`"bucket":"near","role_arn":"arn:aws:iam::999999999999:role/x"`), 403,
			[]string{"User: " + caller + " is not authorized to perform: iam:PassRole on resource: arn:aws:iam::999999999999:role/x"}},
		"no bucket":      {named(`"base_path":"x"`), 500, []string{"No bucket defined for s3 repository"}},
		"unknown bucket": {named(`"bucket":"nowhere"`), 500, []string{"NoSuchBucket"}},
		"bucket ..":      {named(`"bucket":".."`), 500, []string{"no bucket's name"}},
		"leading slash":  {named(`"bucket":"near","base_path":"/x"`), 500, []string{"base_path"}},
		"climbing path":  {named(`"bucket":"near","base_path":"../far"`), 500, []string{"base_path"}},
		"fs":             {`{"type":"fs","settings":{"location":"/x"}}`, 401, []string{"payload is not allowed"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			d := open(t, c.URL, nil)
			r := send(t, d, "PUT", "/_snapshot/r", tt.body)
			if r.status != tt.status {
				t.Fatalf("%d %s, want %d", r.status, r.body, tt.status)
			}
			for _, want := range tt.want {
				if !strings.Contains(r.body, want) {
					t.Errorf("%q is not in %s", want, r.body)
				}
			}
			if reached := len(c.calls()) > 0; reached != (tt.status == 200) {
				t.Errorf("the cluster saw %v", c.calls())
			}
		})
	}
}

func TestRegisteredRepositoryIsShownAsS3(t *testing.T) {
	c := newCluster(t)
	root := ""
	d := open(t, c.URL, func(cfg *Config) { root = cfg.GatewayRoot })
	settings := map[string]any{"bucket": "near", "base_path": "a/b", "region": "eu-central-1", "role_arn": role, "readonly": true,
		"compress": true, "chunk_size": "10mb", "max_restore_bytes_per_sec": "1gb", "max_snapshot_bytes_per_sec": "2mb"}
	body, err := json.Marshal(repository{"s3", settings})
	if err != nil {
		t.Fatal(err)
	}
	if r := send(t, d, "PUT", "/_snapshot/r", string(body)); r.status != 200 {
		t.Fatal(r)
	}
	got := c.repositories["r"]
	want := map[string]any{"location": filepath.Join(root, "near", "a", "b"), "readonly": true, "compress": true, "chunk_size": "10mb",
		"max_restore_bytes_per_sec": "1gb", "max_snapshot_bytes_per_sec": "2mb"}
	if got.Type != "fs" || got.Settings["base_path"] != nil {
		t.Errorf("at the cluster: %+v", got)
	}
	for k, v := range want {
		if got.Settings[k] != v {
			t.Errorf("at the cluster: %s = %v, want %v", k, got.Settings[k], v)
		}
	}
	for _, dir := range []string{"near/a", "near/a/b"} {
		if info, err := os.Stat(filepath.Join(root, dir)); err != nil || info.Mode().Perm() != 0o777 {
			t.Errorf("%s: %v, %v", dir, info.Mode(), err)
		}
	}

	// A second door, as after a restart, knows what the first was told, and finds out what was registered behind both.
	c.repositories["direct"] = repository{"fs", map[string]any{"location": filepath.Join(root, "far", "x", "y")}}
	c.repositories["foreign"] = repository{"fs", map[string]any{"location": "/elsewhere"}}
	d = open(t, c.URL, func(cfg *Config) { cfg.GatewayRoot = root })
	for _, path := range []string{"/_snapshot", "/_snapshot/_all"} {
		r := send(t, d, "GET", path, "")
		var list map[string]repository
		if err := json.Unmarshal([]byte(r.body), &list); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(list["r"].Settings, settings) || list["r"].Type != "s3" {
			t.Errorf("%s: %+v, want %+v", path, list["r"], settings)
		}
		if !maps.Equal(list["direct"].Settings, map[string]any{"bucket": "far", "base_path": "x/y"}) || list["direct"].Type != "s3" {
			t.Errorf("%s: %+v", path, list["direct"])
		}
		if list["foreign"].Type != "fs" {
			t.Errorf("%s: %+v", path, list["foreign"])
		}
		if own, found := list["cs-automated"]; !found || own.Type != "s3" || len(own.Settings) > 0 {
			t.Errorf("%s: cs-automated: %+v, %v", path, own, found)
		}
	}
	if r := send(t, d, "GET", "/_snapshot/r", ""); strings.Contains(r.body, "cs-automated") || !strings.Contains(r.body, `"bucket":"near"`) {
		t.Errorf("one repository: %s", r.body)
	}
	if r := send(t, d, "GET", "/_snapshot/cs-automated", ""); r.body != `{"cs-automated":{"type":"s3"}}` {
		t.Errorf("cs-automated: %+v", r)
	}
}

func TestSlowCallIsAnswered504AndGoesOn(t *testing.T) {
	c := newCluster(t)
	release := make(chan struct{})
	c.block["/_snapshot/r/s"] = release
	l := &log{}
	d := open(t, c.URL, func(cfg *Config) { cfg.CallLimit, cfg.Log = 50*time.Millisecond, l })
	r := send(t, d, "PUT", "/_snapshot/r/s?wait_for_completion=true", "{}")
	if r.status != 504 || !strings.Contains(r.body, "Gateway Timeout") {
		t.Errorf("%+v", r)
	}
	if len(c.calls()) != 0 {
		t.Fatal("the call was over before its time")
	}
	close(release)
	until(t, func() bool { return slices.Contains(c.calls(), "PUT /_snapshot/r/s?wait_for_completion=true") })
	if got := d.Counts(); got.GoneOn != 1 || got.ByStatus[504] != 1 || got.Requests != 1 || got.Faults != 0 {
		t.Errorf("%+v", got)
	}
	if e := l.lines(t); len(e) != 1 || e[0].Status != 504 || e[0].Principal != caller || e[0].Method != "PUT" || e[0].Path != "/_snapshot/r/s" {
		t.Errorf("%+v", e)
	}
}

func until(t *testing.T, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come")
		}
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		fault   Fault
		status  int // 0: cut
		reaches bool
	}{
		{Fault{}, 200, true},
		{Fault{Kind: TimeoutWithoutEffect, Delay: time.Millisecond}, 504, false},
		{Fault{Kind: TimeoutWithEffect}, 504, true},
		{Fault{Kind: TooManyRequests}, 429, false},
		{Fault{Kind: CutWithoutEffect}, 0, false},
		{Fault{Kind: Skewed}, 403, false},
		{Fault{Kind: CutWithEffect}, 0, true},
		{Fault{Kind: Delay, Delay: time.Millisecond}, 200, true},
	}
	for _, tt := range tests {
		t.Run(string(tt.fault.Kind), func(t *testing.T) {
			c := newCluster(t)
			l := &log{}
			var seen Request
			d := open(t, c.URL, func(cfg *Config) {
				cfg.Log = l
				cfg.Faults = func(r Request) Fault { seen = r; return tt.fault }
			})
			r, err := try(t.Context(), d, "PUT", "/a/_settings", "{}")
			if (err != nil) != (tt.status == 0) || r.status != tt.status {
				t.Errorf("%+v, %v; want %d", r, err, tt.status)
			}
			if tt.reaches {
				until(t, func() bool { return len(c.calls()) == 1 })
			}
			if err := d.Close(); err != nil { // waits for calls that go on
				t.Fatal(err)
			}
			if got := len(c.calls()); !tt.reaches && got != 0 {
				t.Errorf("the cluster saw %v", c.calls())
			}
			if !seen.Mutating || seen.Path != "/a/_settings" || seen.Principal != caller {
				t.Errorf("the decision saw %+v", seen)
			}
			want := 1
			if tt.fault.Kind == None {
				want = 0
			}
			if got := d.Counts().Faults; got != want {
				t.Errorf("%d faults counted", got)
			}
			if e := l.lines(t); len(e) != 1 || e[0].Fault != tt.fault.Kind || e[0].Status != tt.status {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestRandomFaults(t *testing.T) {
	request := func(method, path string) Request {
		return newRequest(httptest.NewRequest(method, path, nil), "", nil)
	}
	paths := []string{"/_snapshot/r/s", "/_snapshot/r/s/_restore", "/a/_settings", "/_cluster/settings", "/a/_close", "/a/_block/write"}
	one, two, other := RandomFaults(7, 0.5), RandomFaults(7, 0.5), RandomFaults(8, 0.5)
	kinds, differs := map[FaultKind]int{}, false
	for i := range 600 {
		r := request("POST", paths[i%len(paths)])
		f := one(r)
		kinds[f.Kind]++
		if f != two(r) {
			t.Fatal("equal seeds, unequal decisions")
		}
		differs = differs || f != other(r)
	}
	if !differs || kinds[None] < 200 || kinds[TimeoutWithEffect] < 80 || kinds[TimeoutWithoutEffect] < 80 || len(kinds) != 3 {
		t.Errorf("differs %v, %v", differs, kinds)
	}
	always := RandomFaults(1, 1)
	for _, r := range []Request{request("GET", "/_snapshot/r/s"), request("POST", "/a/_search"), request("PUT", "/a/_doc/1"),
		request("HEAD", "/a/_settings")} {
		if f := always(r); f.Kind != None {
			t.Errorf("%s %s: %v", r.Method, r.Path, f)
		}
	}
}

func TestClusterAway(t *testing.T) {
	c := newCluster(t)
	d := open(t, c.URL, nil)
	c.Close()
	if r := send(t, d, "GET", "/_cluster/health", ""); r.status != 503 {
		t.Errorf("%+v", r)
	}
}

func TestAnswersPassUnchanged(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Engine", "yes")
		w.Header().Set("Content-Length", "5")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("hello"))
	}))
	t.Cleanup(upstream.Close)
	d := open(t, upstream.URL, nil)
	if r := send(t, d, "GET", "/a/_doc/a%2Fb", ""); r.status != 404 || r.body != "hello" || r.header.Get("X-Engine") != "yes" {
		t.Errorf("%+v", r)
	}
	if r := send(t, d, "HEAD", "/a", ""); r.status != 404 || r.body != "" || r.header.Get("Content-Length") != "5" {
		t.Errorf("%+v", r)
	}
}

func TestAutomatedSnapshots(t *testing.T) {
	c := newCluster(t)
	d := open(t, c.URL, func(cfg *Config) { cfg.AutomatedRoot = "/hidden" })
	if got := c.repositories["cs-automated"]; got.Type != "fs" || got.Settings["location"] != "/hidden/cs-automated" {
		t.Fatalf("Start registered %+v", got)
	}
	if r := send(t, d, "GET", "/_snapshot", ""); strings.Contains(r.body, "hidden") {
		t.Errorf("the listing tells where cs-automated is: %s", r.body)
	}
	s, err := d.StartAutomatedSnapshot(t.Context(), "1mb")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.repositories["cs-automated"].Settings["max_snapshot_bytes_per_sec"]; got != "1mb" {
		t.Errorf("the pace is %v", got)
	}
	if _, err := d.StartAutomatedSnapshot(t.Context(), ""); err == nil {
		t.Error("two automated snapshots at once")
	}
	if r := send(t, d, "PUT", "/_snapshot/r/mine", "{}"); r.status != 503 || !strings.Contains(r.body, "concurrent_snapshot_execution_exception") {
		t.Errorf("a snapshot while one is in progress: %+v", r)
	}
	if r := send(t, d, "POST", "/_snapshot/r/_verify", ""); r.status != 200 {
		t.Errorf("_verify while a snapshot is in progress: %+v", r)
	}
	c.finish("SUCCESS")
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if r := send(t, d, "PUT", "/_snapshot/r/mine", "{}"); r.status != 200 {
		t.Errorf("a snapshot after it: %+v", r)
	}

	for state, want := range map[string]string{"FAILED": "FAILED", "PARTIAL": "PARTIAL", "GONE": "is gone"} {
		s, err = d.StartAutomatedSnapshot(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		c.finish(state)
		if err := s.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("one that ends as %s: %v", state, err)
		}
	}
}

func TestAutomatedSnapshotsByTheClock(t *testing.T) {
	c := newCluster(t)
	l := &log{}
	d := open(t, c.URL, func(cfg *Config) { cfg.AutomatedRoot, cfg.AutomatedEvery, cfg.Log = "/hidden", 10*time.Millisecond, l })
	until(t, func() bool {
		c.finish("SUCCESS")
		return len(l.lines(t)) >= 2
	})
	for _, e := range l.lines(t) {
		if !strings.HasPrefix(e.Event, "automated snapshot 2") {
			t.Errorf("%+v", e)
		}
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if n := d.Counts().Requests; n != 0 {
		t.Errorf("the door's own work counts as %d requests", n)
	}
}
