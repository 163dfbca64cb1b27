// Package frontdoor is a reverse proxy that stands before a search cluster on one machine and behaves as the endpoint of an Amazon
// OpenSearch Service domain does: it checks signatures, keeps to the operations that Amazon documents for the version, wants
// a role with every S3 repository, owns the repository cs-automated and its hourly snapshots, and answers 504 to slow calls while
// they go on behind it.
//
// The cluster is a real node or the built-in model. Neither has S3: both keep `fs` repositories. A repository of type s3 that is
// registered here becomes an fs repository in the folder <gateway root>/<bucket>/<base path>, which an S3 gateway serves as
// s3://<bucket>/<base path>. What the caller registered travels inside the fs repository's settings, so the door itself keeps no
// state and may be restarted at any time.
//
// Faults (504, 429, cut connections, delays) are injected here, see Faults.
package frontdoor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Authorizer checks a request's signature (SigV4, service "es"). It returns the caller's ARN, or why the request is refused, in the
// words that the caller is to read.
type Authorizer interface {
	Authorize(r *http.Request, body []byte) (principalARN string, err error)
}

// AuthorizerFunc makes a function an Authorizer.
type AuthorizerFunc func(r *http.Request, body []byte) (principalARN string, err error)

// Authorize calls f.
func (f AuthorizerFunc) Authorize(r *http.Request, body []byte) (string, error) { return f(r, body) }

// Profile is the set of operations that a door lets through.
type Profile string

// The two profiles. Amazon takes only what Amazon documents for the version; Open takes everything, as third-party clusters do
// (repositories of type s3 are turned into fs under both).
const (
	Amazon Profile = "amazon"
	Open   Profile = "open"
)

// maxBody is Amazon's largest request size of the larger instance types (100 MiB).
const maxBody = 100 << 20

// Config says how one door behaves. Upstream, Engine and GatewayRoot are needed.
type Config struct {
	Upstream    string  // the cluster's URL, http://127.0.0.1:<port>
	Engine      string  // such as "elasticsearch-7.10.2": decides what profile Amazon lets through
	Profile     Profile // Amazon when empty
	GatewayRoot string  // the folder whose sub-folders are the S3 gateway's buckets; the cluster must be able to write below it
	Address     string  // where Start listens; 127.0.0.1 and a free port when empty

	// Region is the domain's. BucketRegions gives the Region of buckets; one that is not listed is in the domain's.
	Region        string
	BucketRegions map[string]string

	// Authorizer checks signatures. Without one every caller is let in, nameless, with the headers that it sends.
	Authorizer Authorizer
	// Security makes the door name the caller to the cluster's security plugin as a proxy user (x-proxy-user, x-proxy-roles).
	Security bool

	// CallLimit is how long a caller waits before it is answered 504; 60 s when zero, as on Amazon.
	CallLimit time.Duration

	// AutomatedRoot is a folder outside the gateway root in which the cluster keeps the repository cs-automated. Without one
	// cs-automated is only listed and no automated snapshot is ever taken.
	AutomatedRoot string
	// AutomatedEvery is the time between automated snapshots; one hour when zero, as on Amazon; none by itself when negative.
	AutomatedEvery time.Duration

	// Faults decides the fault of each request that is otherwise let in; nil means none.
	Faults func(Request) Fault
	// Log receives the access log, one JSON line a request. Optional.
	Log io.Writer
}

// Door is a front door. It is an http.Handler; Start makes it listen.
type Door struct {
	cfg    Config
	engine family
	client *http.Client
	life   context.Context // ends when the door closes: calls that go on after a 504 end then too
	end    context.CancelFunc
	calls  sync.WaitGroup
	server *http.Server
	url    string

	logMu sync.Mutex

	mu        sync.Mutex
	counts    Counts
	automated *AutomatedSnapshot // the one in progress, or nil
}

// Counts is what a door has seen so far.
type Counts struct {
	Requests int         // all requests
	ByStatus map[int]int // answers by HTTP status; cut connections count as 0
	Faults   int         // requests that got an injected fault
	GoneOn   int         // calls that were answered 504 and went on behind the door
}

// New checks cfg and returns a door that serves as a handler; it neither listens nor takes automated snapshots before Start.
func New(cfg Config) (*Door, error) {
	u, err := url.Parse(cfg.Upstream)
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("front door: upstream %q is not the URL of a cluster", cfg.Upstream)
	}
	cfg.Upstream = strings.TrimRight(cfg.Upstream, "/")
	engine, err := parseFamily(cfg.Engine)
	if err != nil {
		return nil, fmt.Errorf("front door: %w", err)
	}
	switch cfg.Profile {
	case "":
		cfg.Profile = Amazon
	case Amazon, Open:
	default:
		return nil, fmt.Errorf("front door: profile %q is neither %q nor %q", cfg.Profile, Amazon, Open)
	}
	if cfg.GatewayRoot == "" {
		return nil, errors.New("front door: the S3 gateway's root folder is missing")
	}
	if cfg.Security && cfg.Authorizer == nil {
		return nil, errors.New("front door: Security needs an Authorizer, or anybody could be any user")
	}
	if cfg.Profile == Open && cfg.AutomatedRoot != "" {
		return nil, errors.New("front door: automated snapshots belong to profile amazon; leave AutomatedRoot out of profile open")
	}
	if cfg.CallLimit == 0 {
		cfg.CallLimit = 60 * time.Second
	}
	if cfg.AutomatedEvery == 0 {
		cfg.AutomatedEvery = time.Hour
	}
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	if cfg.Log == nil {
		cfg.Log = io.Discard
	}
	d := &Door{cfg: cfg, engine: engine}
	d.counts.ByStatus = map[int]int{}
	d.life, d.end = context.WithCancel(context.Background())
	d.client = &http.Client{
		Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return d, nil
}

// Start listens on cfg.Address, registers cs-automated at the cluster (which must answer) and begins the automated snapshots. After
// an error nothing is left running.
func (d *Door) Start(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.Address)
	if err != nil {
		return fmt.Errorf("front door: %w", err)
	}
	if d.cfg.AutomatedRoot != "" {
		if err := d.registerAutomated(ctx, ""); err != nil {
			_ = l.Close()
			return fmt.Errorf("front door: %w", err)
		}
	}
	d.url = "http://" + l.Addr().String()
	d.server = &http.Server{Handler: d, ReadHeaderTimeout: 30 * time.Second}
	d.calls.Go(func() { _ = d.server.Serve(l) }) // always ends with ErrServerClosed, after Close
	if d.cfg.AutomatedRoot != "" && d.cfg.AutomatedEvery > 0 {
		d.calls.Go(d.takeAutomatedSnapshots)
	}
	return nil
}

// URL returns where a started door listens.
func (d *Door) URL() string { return d.url }

// Close stops listening, cuts what is still open, gives up calls that go on behind the door and waits for their ends. The cluster
// keeps what it has begun.
func (d *Door) Close() error {
	var err error
	if d.server != nil {
		err = d.server.Close()
	}
	d.end()
	d.calls.Wait()
	d.client.CloseIdleConnections()
	return err
}

// Counts returns what the door has seen so far.
func (d *Door) Counts() Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.counts
	c.ByStatus = make(map[int]int, len(d.counts.ByStatus))
	for k, v := range d.counts.ByStatus {
		c.ByStatus[k] = v
	}
	return c
}

// answer is a whole HTTP answer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func jsonAnswer(status int, v any) *answer {
	body, err := json.Marshal(v)
	if err != nil {
		return jsonAnswer(http.StatusInternalServerError, map[string]string{"Message": err.Error()})
	}
	return &answer{status, http.Header{"Content-Type": {"application/json"}}, body}
}

// htmlAnswer is how Amazon's load balancer speaks for itself.
func htmlAnswer(status int) *answer {
	body := "<html><body><b>Http/1.1 " + http.StatusText(status) + "</b></body> </html>"
	return &answer{status, http.Header{"Content-Type": {"text/html"}}, []byte(body)}
}

// notAllowed is Amazon's answer to an operation that it does not offer: HTTP 401 (elastic/curator#685).
func notAllowed(path string) *answer {
	return jsonAnswer(http.StatusUnauthorized, map[string]string{"Message": fmt.Sprintf("Your request: '%s' is not allowed.", path)})
}

func payloadNotAllowed(path string) *answer {
	return jsonAnswer(http.StatusUnauthorized,
		map[string]string{"Message": fmt.Sprintf("Your request: '%s' payload is not allowed.", path)})
}

// ServeHTTP serves one request.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begin := time.Now()
	entry := logEntry{Time: begin.UTC(), Method: r.Method, Path: r.URL.Path}
	a := d.serve(r, &entry)
	if a != nil {
		entry.Status = a.status
	}
	entry.Milliseconds = time.Since(begin).Milliseconds()
	d.record(entry)
	if a == nil {
		panic(http.ErrAbortHandler) // net/http's way to cut the connection without an answer
	}
	for k, v := range a.header {
		w.Header()[k] = v
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the caller may be gone
}

// serve decides on the answer; nil cuts the connection.
func (d *Door) serve(r *http.Request, entry *logEntry) *answer {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil // the caller went away
	}
	if len(body) > maxBody {
		return jsonAnswer(http.StatusRequestEntityTooLarge,
			map[string]string{"Message": fmt.Sprintf("Request size exceeded %d bytes", maxBody)})
	}
	if d.cfg.Authorizer != nil {
		principal, err := d.cfg.Authorizer.Authorize(r, body)
		if err != nil {
			return unauthorized(r, err)
		}
		entry.Principal = principal
	}
	req := newRequest(r, entry.Principal, body)
	if d.cfg.Profile == Amazon {
		if a := d.engine.refuse(req); a != nil {
			return a
		}
		if a := d.refuseWhileAutomated(req); a != nil {
			return a
		}
	}

	fault := Fault{}
	if d.cfg.Faults != nil {
		fault = d.cfg.Faults(req)
	}
	entry.Fault = fault.Kind
	switch fault.Kind {
	case Delay:
		if !sleep(r.Context(), fault.Delay) {
			return nil
		}
	case TimeoutWithoutEffect:
		_ = sleep(r.Context(), fault.Delay)
		return htmlAnswer(http.StatusGatewayTimeout)
	case TooManyRequests:
		return jsonAnswer(http.StatusTooManyRequests, map[string]string{"message": "Request throttled due to too many requests"})
	case CutWithoutEffect:
		return nil
	case Skewed:
		return skewed(time.Now().UTC())
	}

	prepared, a := d.translate(&req)
	if a != nil {
		return a
	}
	result := d.forward(r, req, prepared)
	limit := d.cfg.CallLimit
	if fault.Kind == TimeoutWithEffect {
		limit = fault.Delay
	}
	wait := time.NewTimer(limit)
	defer wait.Stop()
	if fault.Kind == TimeoutWithEffect {
		<-wait.C
		d.goneOn()
		return htmlAnswer(http.StatusGatewayTimeout)
	}
	select {
	case a = <-result:
	case <-wait.C:
		d.goneOn()
		return htmlAnswer(http.StatusGatewayTimeout)
	case <-r.Context().Done():
		return nil // the caller is gone; its call goes on
	}
	if fault.Kind == CutWithEffect {
		return nil
	}
	return a
}

func (d *Door) goneOn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts.GoneOn++
}

func sleep(ctx context.Context, t time.Duration) bool {
	timer := time.NewTimer(t)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// unauthorized gives Amazon's two refusals: the unsigned request is anonymous, the badly signed one is told why.
func unauthorized(r *http.Request, err error) *answer {
	if r.Header.Get("Authorization") == "" && !r.URL.Query().Has("X-Amz-Signature") {
		method := r.Method[:1] + strings.ToLower(r.Method[1:])
		return jsonAnswer(http.StatusForbidden,
			map[string]string{"Message": "User: anonymous is not authorized to perform: es:ESHttp" + method})
	}
	return jsonAnswer(http.StatusForbidden, map[string]string{"message": err.Error()})
}

// skewed is the refusal of a signature that is ten minutes old (the words are those of package sigv4).
func skewed(now time.Time) *answer {
	const form, old = "20060102T150405Z", -10 * time.Minute
	return jsonAnswer(http.StatusForbidden, map[string]string{"message": fmt.Sprintf("Signature expired: %s is now earlier than %s (%s - 5 min.)",
		now.Add(old).Format(form), now.Add(-5*time.Minute).Format(form), now.Format(form))})
}

// hopByHop are the headers that concern one connection only (RFC 9110, section 7.6.1), and those that the door sets itself.
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length",
	"X-Proxy-User", "X-Proxy-Roles", "X-Forwarded-For", "Expect"}

// forward sends the request to the cluster in the background and hands the answer over; the call outlives its caller's patience.
// Its context is the door's own.
func (d *Door) forward(r *http.Request, req Request, prepared translation) <-chan *answer {
	result := make(chan *answer, 1)
	target := d.cfg.Upstream + r.URL.EscapedPath()
	if r.URL.RawQuery != "" {
		target += "?" + r.URL.RawQuery
	}
	out, err := http.NewRequestWithContext(d.life, r.Method, target, bytes.NewReader(req.Body))
	if err != nil {
		result <- jsonAnswer(http.StatusBadRequest, map[string]string{"Message": err.Error()})
		return result
	}
	out.Header = r.Header.Clone()
	for _, h := range hopByHop {
		out.Header.Del(h)
	}
	if d.cfg.Authorizer != nil {
		for name := range out.Header {
			if strings.HasPrefix(name, "X-Amz-") || name == "Authorization" {
				out.Header.Del(name)
			}
		}
	}
	if d.cfg.Security {
		out.Header.Set("X-Proxy-User", req.Principal)
		out.Header.Set("X-Proxy-Roles", req.Principal)
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			host = "127.0.0.1"
		}
		out.Header.Set("X-Forwarded-For", host)
	}
	if prepared.answer != nil {
		out.Header.Del("Accept-Encoding")
	}
	if len(req.Body) == 0 {
		out.Body, out.ContentLength = http.NoBody, 0
	}
	d.calls.Go(func() {
		a := d.do(out)
		if prepared.answer != nil && a.status == http.StatusOK {
			a = prepared.answer(a)
		}
		result <- a
	})
	return result
}

// do carries one call out. A cluster that does not take the connection is 503, one that breaks off is 502, as load balancers say it.
func (d *Door) do(out *http.Request) *answer {
	resp, err := d.client.Do(out)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return htmlAnswer(http.StatusServiceUnavailable)
		}
		return htmlAnswer(http.StatusBadGateway)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return htmlAnswer(http.StatusBadGateway)
	}
	header := resp.Header.Clone()
	for _, h := range hopByHop {
		if h != "Content-Length" || out.Method != http.MethodHead {
			header.Del(h)
		}
	}
	return &answer{resp.StatusCode, header, body}
}

// logEntry is one line of the access log. Queries are left out: a presigned one is a credential.
type logEntry struct {
	Time         time.Time `json:"time"`
	Method       string    `json:"method,omitempty"`
	Path         string    `json:"path,omitempty"`
	Status       int       `json:"status"` // 0: the connection was cut
	Milliseconds int64     `json:"ms"`
	Principal    string    `json:"principal,omitempty"`
	Fault        FaultKind `json:"fault,omitempty"`
	Event        string    `json:"event,omitempty"` // what the door did by itself
}

func (d *Door) record(e logEntry) {
	if e.Event == "" {
		d.mu.Lock()
		d.counts.Requests++
		d.counts.ByStatus[e.Status]++
		if e.Fault != None {
			d.counts.Faults++
		}
		d.mu.Unlock()
	}
	line, err := json.Marshal(e)
	if err != nil {
		return // plain fields only: cannot happen
	}
	d.logMu.Lock()
	defer d.logMu.Unlock()
	_, _ = d.cfg.Log.Write(append(line, '\n'))
}
