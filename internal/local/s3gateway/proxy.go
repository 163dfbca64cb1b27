package s3gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Kind is the S3 operation of a request, by its name in the S3 API.
type Kind string

// The kinds that the proxy tells apart; everything else is Other.
const (
	PutObject               Kind = "PutObject"
	GetObject               Kind = "GetObject"
	HeadObject              Kind = "HeadObject"
	DeleteObject            Kind = "DeleteObject"
	DeleteObjects           Kind = "DeleteObjects"
	CopyObject              Kind = "CopyObject"
	ListObjects             Kind = "ListObjects"
	ListObjectsV2           Kind = "ListObjectsV2"
	CreateMultipartUpload   Kind = "CreateMultipartUpload"
	UploadPart              Kind = "UploadPart"
	UploadPartCopy          Kind = "UploadPartCopy"
	CompleteMultipartUpload Kind = "CompleteMultipartUpload"
	AbortMultipartUpload    Kind = "AbortMultipartUpload"
	ListParts               Kind = "ListParts"
	ListMultipartUploads    Kind = "ListMultipartUploads"
	Other                   Kind = "Other"
)

// Request is what a decision is made on. Bucket and Key are decoded; Key is empty for operations on a bucket.
type Request struct {
	Kind   Kind
	Bucket string
	Key    string
}

// Answer is what the proxy does with a request.
type Answer int

// The answers. Except for Pass and CutAfter the gateway never sees the request.
const (
	Pass     Answer = iota
	SlowDown        // 503 with S3's SlowDown error
	Cut             // the connection is closed without an answer; nothing has happened
	CutAfter        // the request is carried out, then the connection is closed without an answer
	// InternalError is S3's InternalError: inside a 200 for CopyObject, UploadPartCopy and CompleteMultipartUpload, which S3
	// may answer so because it sends the status before it is done; a 500 for everything else.
	InternalError
	Skewed // 403 RequestTimeTooSkewed, as a caller is answered whose clock is wrong
)

// Proxy stands between S3 clients and the gateway. It passes the Host header on, which is part of a signature.
type Proxy struct {
	server *http.Server
	url    string
	decide func(Request) Answer

	mu     sync.Mutex
	counts map[Kind]int
}

// NewProxy starts a proxy on a free port of 127.0.0.1 before the endpoint target. decide is called for every request, from several
// goroutines at once; nil passes everything. While the gateway restarts, connections of clients are cut.
func NewProxy(target string, decide func(Request) Answer) (*Proxy, error) {
	gateway, err := url.Parse(target)
	if err != nil || gateway.Host == "" {
		return nil, fmt.Errorf("start the S3 fault proxy: %q is not an endpoint", target)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start the S3 fault proxy: %w", err)
	}
	if decide == nil {
		decide = func(Request) Answer { return Pass }
	}
	p := &Proxy{url: "http://" + listener.Addr().String(), decide: decide, counts: map[Kind]int{}}
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = gateway.Scheme, gateway.Host
			r.Out.URL.RawQuery = r.In.URL.RawQuery // uncleaned: it is signed
			r.Out.Host = r.In.Host
		},
		// Compression would be asked for with a header that was not signed, and MaxIdleConnsPerHost's default of 2 would open a
		// connection for nearly every object of a fan-out.
		Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute},
		// The gateway is away: what a client sees of that is a cut connection, not a proxy's 502.
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		FlushInterval: -1,
	}
	p.server = &http.Server{Handler: p.handler(forward), ReadHeaderTimeout: 10 * time.Second}
	go p.server.Serve(listener)
	return p, nil
}

// URL returns the proxy's endpoint.
func (p *Proxy) URL() string { return p.url }

// Counts returns how many requests of each kind have come, those answered by the proxy too.
func (p *Proxy) Counts() map[Kind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.counts)
}

// Close ends the proxy and cuts its connections.
func (p *Proxy) Close() error {
	if err := p.server.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the S3 fault proxy: %w", err)
	}
	return nil
}

func (p *Proxy) handler(forward http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := classify(r)
		p.mu.Lock()
		p.counts[request.Kind]++
		p.mu.Unlock()
		switch p.decide(request) {
		case SlowDown:
			writeError(w, r, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		case InternalError:
			status := http.StatusInternalServerError
			switch request.Kind {
			case CopyObject, UploadPartCopy, CompleteMultipartUpload:
				status = http.StatusOK
			}
			writeError(w, r, status, "InternalError", "We encountered an internal error. Please try again.")
		case Skewed:
			writeError(w, r, http.StatusForbidden, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large.")
		case Cut:
			panic(http.ErrAbortHandler) // net/http's way to close a connection without an answer
		case CutAfter:
			// Without the client's cancellation: the request is to be carried out whatever the client does.
			forward.ServeHTTP(&discard{header: http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
			panic(http.ErrAbortHandler)
		default:
			forward.ServeHTTP(w, r)
		}
	})
}

func classify(r *http.Request) Request {
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return Request{Kind: kindOf(r, bucket, key), Bucket: bucket, Key: key}
}

func kindOf(r *http.Request, bucket, key string) Kind {
	query := r.URL.Query()
	copies := r.Header.Get("X-Amz-Copy-Source") != ""
	upload := query.Has("uploadId")
	if bucket == "" {
		return Other
	}
	if key == "" {
		switch {
		case r.Method == http.MethodGet && query.Get("list-type") == "2":
			return ListObjectsV2
		case r.Method == http.MethodGet && query.Has("uploads"):
			return ListMultipartUploads
		case r.Method == http.MethodPost && query.Has("delete"):
			return DeleteObjects
		case r.Method == http.MethodGet && !hasSubresource(query):
			return ListObjects
		}
		return Other
	}
	switch {
	case hasSubresource(query):
		return Other
	case r.Method == http.MethodPut && upload && copies:
		return UploadPartCopy
	case r.Method == http.MethodPut && upload:
		return UploadPart
	case r.Method == http.MethodPut && copies:
		return CopyObject
	case r.Method == http.MethodPut:
		return PutObject
	case r.Method == http.MethodGet && upload:
		return ListParts
	case r.Method == http.MethodGet:
		return GetObject
	case r.Method == http.MethodHead:
		return HeadObject
	case r.Method == http.MethodDelete && upload:
		return AbortMultipartUpload
	case r.Method == http.MethodDelete:
		return DeleteObject
	case r.Method == http.MethodPost && query.Has("uploads"):
		return CreateMultipartUpload
	case r.Method == http.MethodPost && upload:
		return CompleteMultipartUpload
	}
	return Other
}

// hasSubresource says whether the request is about a property of a bucket or object rather than about its content.
func hasSubresource(query url.Values) bool {
	for _, name := range []string{"acl", "attributes", "cors", "encryption", "legal-hold", "lifecycle", "location", "logging", "notification",
		"object-lock", "ownershipControls", "policy", "policyStatus", "publicAccessBlock", "replication", "requestPayment", "restore", "retention",
		"tagging", "versioning", "versions", "website"} {
		if query.Has(name) {
			return true
		}
	}
	return false
}

func writeError(w http.ResponseWriter, r *http.Request, status int, code, message string) {
	io.Copy(io.Discard, r.Body) // a client that still sends would see a reset instead of the answer
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return
	}
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?>`+"\n<Error><Code>%s</Code><Message>%s</Message><RequestId>INJECTED</RequestId></Error>",
		code, message)
}

// discard swallows an answer.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header            { return d.header }
func (d *discard) Write(data []byte) (int, error) { return len(data), nil }
func (d *discard) WriteHeader(int)                {}
